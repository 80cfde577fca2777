// Files that several processes read and write at any time: each is whole, or is not there.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

namespace portable_mps::files {

// What `write` left there; nothing for "", or where it is damaged or absent.
std::optional<std::string> read(const std::string& path);

// Replace the file. Failures are silent: what is not kept is made anew.
void write(const std::string& path, const void* data, size_t bytes);

}  // namespace portable_mps::files
