// Caching allocator over large device buffers ("slabs").
//
// One in-order stream makes reuse simple: a block that the host frees may be handed out at once,
// since whatever uses it next is recorded behind its last use, and the hazard tracker puts a
// barrier between.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <cstddef>

namespace portable_mps {

// The process-wide allocator; never destroyed, since tensors may outlive the interpreter.
c10::DeviceAllocator* allocator();

// Bytes in live tensors, rounded to the allocation granularity, and bytes in slabs.
size_t allocated_memory();
size_t driver_memory();

// Give a storage as many bytes, in place; those that fit are kept.
void resize_storage(const at::Storage& storage, size_t bytes);

// Memory of captured graphs (csrc/capture.h). From `open_pool` to `close_pool`, what any thread
// allocates is a pool's, and goes back to it alone, until `drop_pool` has been called once for each
// `open_pool`. `pool`: one that is there, or {0, 0} for a new one.
c10::MempoolId_t open_pool(c10::MempoolId_t pool);
void close_pool();
void drop_pool(c10::MempoolId_t pool);

// Let the process take at most `ratio` of the adapter's memory; 0 lifts the limit.
void set_memory_ratio(double ratio);

// The same for a process that has not set a ratio itself.
void set_default_memory_ratio(double ratio);

}  // namespace portable_mps
