#include "files.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

namespace portable_mps::files {
namespace {

// FNV-1a (Fowler, Noll, Vo), which also begins the file.
uint64_t checksum(const char* data, size_t bytes) {
  uint64_t sum = 0xcbf29ce484222325u;
  for (size_t i = 0; i < bytes; ++i) {
    sum = (sum ^ static_cast<unsigned char>(data[i])) * 0x100000001b3u;
  }
  return sum;
}

// No two writers, of one process or several, have a name in common.
std::string unique_suffix() {
  static const uint64_t process = (uint64_t{std::random_device()()} << 32) | std::random_device()();
  static std::atomic<uint64_t> count{0};
  return "." + std::to_string(process) + "-" + std::to_string(count++);
}

}  // namespace

std::optional<std::string> read(const std::string& path) {
  if (path.empty()) {
    return std::nullopt;
  }
  std::ifstream file(path, std::ios::binary);
  std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  uint64_t sum = 0;
  if (content.size() <= sizeof(sum)) {
    return std::nullopt;
  }
  std::memcpy(&sum, content.data(), sizeof(sum));
  content.erase(0, sizeof(sum));
  if (sum != checksum(content.data(), content.size())) {
    return std::nullopt;
  }
  return content;
}

void write(const std::string& path, const void* data, size_t bytes) {
  if (path.empty()) {
    return;
  }
  const std::string beside = path + unique_suffix();
  std::error_code error;
  {
    std::ofstream file(beside, std::ios::binary);
    const uint64_t sum = checksum(static_cast<const char*>(data), bytes);
    file.write(reinterpret_cast<const char*>(&sum), sizeof(sum));
    file.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
    file.close();
    if (file.fail()) {  // the disk is full
      std::filesystem::remove(beside, error);
      return;
    }
  }
  std::filesystem::rename(beside, path, error);
  if (error) {
    std::filesystem::remove(beside, error);
  }
}

}  // namespace portable_mps::files
