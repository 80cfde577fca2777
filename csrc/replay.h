// Calls of operators that are recorded once and replayed without Python.
//
// What most operators dispatch follows from their arguments' metadata alone. The second call with
// the same metadata is recorded: each allocation, dispatch and release, with every address as a
// place in an argument, a temporary or a constant. Later calls replay that with their own
// addresses. A call that does anything else (a copy, a random number, a read by the host) is never
// replayed.
#pragma once

#include "recorder.h"

#include <string>

namespace portable_mps {

class Recording;

// What is being recorded on this thread, or null. Not owned.
Recording* recording();

// What a recording is told of, by the allocator and the recorder.
void note_allocation(Recording& recording, uint64_t address, size_t bytes);
void note_release(Recording& recording, uint64_t address);
// addresses: offsets in `parameters` of 8-byte words that are addresses, or zero. tensors: those
// whose memory is touched; what is in none of the arguments is a constant, and kept alive.
void note_dispatch(Recording& recording, const std::shared_ptr<const Kernel>& kernel,
                   c10::ArrayRef<uint8_t> parameters, c10::ArrayRef<uint32_t> addresses,
                   const Groups& groups, const std::vector<Range>& reads,
                   const std::vector<Range>& writes, c10::ArrayRef<at::Tensor> tensors);
// Something that cannot be replayed.
void note_other();

// A kernel is about to run that may report an error.
void arm_errors();

void bind_replay(py::module_& module);

}  // namespace portable_mps
