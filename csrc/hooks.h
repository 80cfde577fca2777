#pragma once

namespace portable_mps {

// Make torch see no accelerator but `mps` in this process; without that, torch.accelerator and
// autograd raise under a build of torch that has another one.
void become_the_accelerator();

}  // namespace portable_mps
