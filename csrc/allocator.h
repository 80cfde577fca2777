// Caching allocator over large device buffers ("slabs").
//
// One in-order stream makes reuse simple: a block that the host frees may be handed out at once,
// since whatever uses it next is recorded behind its last use, and the hazard tracker puts a
// barrier between.
#pragma once

#include <c10/core/Allocator.h>

#include <cstddef>
#include <cstdint>

namespace portable_mps {

struct MemoryStats {
  size_t allocated = 0;       // bytes in live tensors, rounded to the allocation granularity
  size_t peak_allocated = 0;  // the most that `allocated` has been
  size_t driver = 0;          // bytes in slabs
  size_t allocations = 0;     // calls of allocate() that returned memory
  size_t slabs = 0;
};

// The process-wide allocator; never destroyed, since tensors may outlive the interpreter.
c10::Allocator* allocator();

MemoryStats memory_stats();

// Return slabs without a live tensor to the driver; waits for the device first.
void empty_cache();

// Let the process take at most `ratio` of the adapter's memory; 0 lifts the limit.
void set_memory_ratio(double ratio);

}  // namespace portable_mps
