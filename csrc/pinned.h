// Host memory that counts as pinned.
//
// Uploads are staged by the runtime, so page-locked memory would gain nothing: `pin_memory()` gives
// ordinary memory, and `is_pinned()` says which.
#pragma once

#include <c10/core/Allocator.h>

namespace portable_mps {

c10::Allocator* pinned_allocator();

// Make it torch's host allocator of this device, for torch.accelerator.
void register_pinned_allocator();

// Whether `data` points into memory of that allocator.
bool is_pinned(const void* data);

}  // namespace portable_mps
