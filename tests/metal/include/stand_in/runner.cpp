// Runs a dispatch of a kernel: its workgroups one after another, a workgroup's threads in turn, each until it comes to
// a barrier or ends. Kernels are libraries of their own, and find what threads.h declares here.
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#ifndef __x86_64__
#include <ucontext.h>
#endif

#include "stand_in/division.h"
#include "stand_in/watch.h"

namespace {

constexpr size_t kStackBytes = 256 << 10, kHostStackBytes = 1 << 20, kGuardBytes = 4096;
constexpr unsigned kSimdgroup = 32;

// What a thread runs on: a stack, and where it stopped.
class Fiber {
 public:
  Fiber() {
    void* const memory =
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    stack_ = static_cast<char*>(memory);
    mprotect(memory, kGuardBytes, PROT_NONE);  // one that grows past its end ends the process
  }
  void prepare(void (*entry)());
  void resume();  // until it suspends
  void suspend();
  const char* stack() const { return stack_; }

 private:
  char* stack_;
#ifdef __x86_64__
  void* own_;
  void* other_;
#else
  ucontext_t own_, other_;
#endif
};

#ifdef __x86_64__
// Keeps what a function must keep, and goes on with what `to` kept.
extern "C" void metal_switch(void** from, void* to);
asm(R"(
.text
.globl metal_switch
.type metal_switch, @function
metal_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size metal_switch, .-metal_switch
)");

void Fiber::prepare(void (*entry)()) {
  auto** top = reinterpret_cast<void**>(stack_ + kStackBytes) - 1;  // aligned as a call leaves it
  *top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  own_ = top - 6;
}
void Fiber::resume() { metal_switch(&other_, own_); }
void Fiber::suspend() { metal_switch(&own_, other_); }
#else
void Fiber::prepare(void (*entry)()) {
  getcontext(&own_);
  own_.uc_stack.ss_sp = stack_;
  own_.uc_stack.ss_size = kStackBytes;
  own_.uc_link = nullptr;
  makecontext(&own_, entry, 0);
}
void Fiber::resume() { swapcontext(&other_, &own_); }
void Fiber::suspend() { swapcontext(&own_, &other_); }
#endif

enum class State { kReady, kAtSimdgroupBarrier, kAtWorkgroupBarrier, kEnded };
enum class Order { kForward, kReversed, kRandom };

struct Thread {
  Fiber fiber;
  State state;
  int line;  // of the barrier
};

using Invoke = void (*)(const unsigned* thread, const unsigned* group, const void* parameters);

Invoke invoke;
const void* parameters;
unsigned group[3], threads[3];
std::vector<Thread*> workgroup;
std::vector<std::vector<unsigned>> turns;  // of each simdgroup, its threads in their order
unsigned current;
int barrier_flags;  // of the last barrier that a thread came to
char fault[256];
std::minstd_rand spurious(1);

void place_of(unsigned index, unsigned* at) {
  at[0] = index % threads[0];
  at[1] = index / threads[0] % threads[1];
  at[2] = index / (threads[0] * threads[1]);
}

// On the thread's own stack, whose accesses are nobody's concern.
void invoke_thread(unsigned index) {
  unsigned at[3];
  place_of(index, at);
  const unsigned of[3] = {group[0], group[1], group[2]};
  invoke(at, of, parameters);
}

}  // namespace

extern "C" {
unsigned metal_lane;
uint64_t metal_workgroup;
}

namespace {
alignas(16) unsigned char exchanged[kSimdgroup][16];

void body() {
  for (;;) {
    invoke_thread(current);
    workgroup[current]->state = State::kEnded;
    workgroup[current]->fiber.suspend();
  }
}

void stop_at(State state, int line) {
  Thread& own = *workgroup[current];
  own.state = state;
  own.line = line;
  own.fiber.suspend();
}

void run_thread(unsigned index) {
  current = index;
  metal_lane = index % kSimdgroup;
  watch::thread(index, workgroup[index]->fiber.stack(), workgroup[index]->fiber.stack() + kStackBytes);
  workgroup[index]->fiber.resume();
}

// Whether all of these threads that have not ended are at the same barrier of that kind.
bool all_at(State state, const std::vector<unsigned>& members, bool& ended) {
  int line = -1;
  bool all = true;
  for (const unsigned index : members) {
    const Thread& each = *workgroup[index];
    if (each.state == State::kEnded) {
      ended = true;
    } else if (each.state != state || (line >= 0 && each.line != line)) {
      all = false;
    } else {
      line = each.line;
    }
  }
  return all && line >= 0;
}

void run_workgroup(const std::vector<unsigned>& simdgroups) {
  for (Thread* each : workgroup) {
    each->state = State::kReady;
    each->fiber.prepare(body);
  }
  std::vector<unsigned> everyone(workgroup.size());
  std::iota(everyone.begin(), everyone.end(), 0);
  for (;;) {
    for (const unsigned simdgroup : simdgroups) {
      const auto& members = turns[simdgroup];
      for (;;) {
        bool ended = false;
        for (const unsigned index : members) {
          if (workgroup[index]->state == State::kReady) run_thread(index);
        }
        if (!all_at(State::kAtSimdgroupBarrier, members, ended)) break;
        if (ended) metal_fault("a thread ended before its simdgroup's barrier", 0, 0);
        for (const unsigned index : members) {
          if (workgroup[index]->state == State::kAtSimdgroupBarrier) workgroup[index]->state = State::kReady;
        }
        watch::simdgroup_barrier(simdgroup);
      }
    }
    bool ended = false;
    if (all_at(State::kAtWorkgroupBarrier, everyone, ended)) {
      if (ended) metal_fault("a thread ended before its workgroup's barrier", 0, 0);
    } else {
      bool waiting = false;
      for (const Thread* each : workgroup) waiting |= each->state != State::kEnded;
      if (!waiting) return;
      metal_fault("threads are at different barriers", 0, 0);
    }
    for (Thread* each : workgroup) {
      if (each->state != State::kEnded) each->state = State::kReady;
    }
    watch::barrier(barrier_flags);
  }
}

}  // namespace

extern "C" {

void metal_fault(const char* message, long value, long limit) {
  if (fault[0] != 0) return;
  unsigned at[3];
  place_of(current, at);
  std::snprintf(fault, sizeof(fault), "%s (%ld of %ld) in thread %u, %u, %u of workgroup %u, %u, %u", message, value,
                limit, at[0], at[1], at[2], group[0], group[1], group[2]);
}

bool metal_fails_spuriously() { return spurious() % 8 == 0; }
void metal_workgroup_barrier(int line, int flags) {
  barrier_flags = flags;
  stop_at(State::kAtWorkgroupBarrier, line);
}
void metal_simdgroup_barrier(int line) { stop_at(State::kAtSimdgroupBarrier, line); }
void* metal_exchange(unsigned lane) { return exchanged[lane]; }
void metal_has_workgroup_memory(void* address, long bytes) { watch::workgroup_memory(address, bytes); }

// What the next dispatches read and write, as pairs of addresses; until then none is watched.
void metal_watch(const uint64_t* read, size_t reads, const uint64_t* written, size_t writes) {
  const auto* const r = reinterpret_cast<const watch::Range*>(read);
  const auto* const w = reinterpret_cast<const watch::Range*>(written);
  watch::enabled = true;
  watch::reads.assign(r, r + reads);
  watch::writes.assign(w, w + writes);
}

// Null, or what went wrong. order: 0 forward, 1 reversed, 2 random, of workgroups, simdgroups and their threads. Kernels
// without barriers need no fibers. Call it from one thread at a time.
const char* metal_run(Invoke kernel, const void* parameters_, const unsigned* groups, const unsigned* threads_,
                      int has_barriers, int order_, unsigned seed) {
  invoke = kernel;
  parameters = parameters_;
  std::memcpy(threads, threads_, sizeof(threads));
  fault[0] = 0;
  const auto order = static_cast<Order>(order_);
  const unsigned count = threads[0] * threads[1] * threads[2];
  std::minstd_rand random(seed + 1);
  const auto arrange = [&](std::vector<unsigned>& items) {
    if (order == Order::kReversed) std::reverse(items.begin(), items.end());
    if (order == Order::kRandom) std::shuffle(items.begin(), items.end(), random);
  };

  while (has_barriers && workgroup.size() < count) workgroup.push_back(new Thread);
  std::vector<Thread*> kept(workgroup.begin() + (has_barriers ? count : 0), workgroup.end());
  workgroup.resize(has_barriers ? count : 0);
  std::vector<unsigned> simdgroups((count + kSimdgroup - 1) / kSimdgroup);
  std::iota(simdgroups.begin(), simdgroups.end(), 0);
  arrange(simdgroups);
  turns.assign(simdgroups.size(), {});
  for (unsigned i = 0; i < count; ++i) turns[i / kSimdgroup].push_back(i);
  for (auto& each : turns) arrange(each);

  [[maybe_unused]] const QuietDivision quiet;
  watch::begin_dispatch();
  const uint64_t all = uint64_t(groups[0]) * groups[1] * groups[2];
  std::vector<unsigned> shuffled;
  if (order == Order::kRandom) {
    shuffled.resize(all);
    std::iota(shuffled.begin(), shuffled.end(), 0);
    arrange(shuffled);
  }
  for (uint64_t i = 0; i < all; ++i) {
    const uint64_t g = order == Order::kForward ? i : order == Order::kReversed ? all - 1 - i : shuffled[i];
    group[0] = g % groups[0];
    group[1] = g / groups[0] % groups[1];
    group[2] = g / (uint64_t(groups[0]) * groups[1]);
    ++metal_workgroup;
    watch::workgroup();
    if (has_barriers) {
      run_workgroup(simdgroups);
      continue;
    }
    for (const unsigned simdgroup : simdgroups) {
      for (const unsigned index : turns[simdgroup]) {
        current = index;
        const auto* const here = static_cast<const char*>(__builtin_frame_address(0));
        watch::thread(index, here - kHostStackBytes, here);
        invoke_thread(index);
      }
    }
  }
  workgroup.insert(workgroup.end(), kept.begin(), kept.end());
  return fault[0] == 0 ? nullptr : fault;
}

}  // extern "C"
