// A GPU goes on after an integer is divided by zero, with any number as the result; x86's processors raise a signal, as
// they do for the most negative number by -1. While one of these lives, such a division is stepped over: its quotient is
// the dividend, its remainder zero.
#pragma once

#ifdef __x86_64__
#include <signal.h>
#include <ucontext.h>

class QuietDivision {
 public:
  QuietDivision() {
    struct sigaction action {};
    action.sa_sigaction = step_over;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGFPE, &action, &before_);
  }
  ~QuietDivision() { sigaction(SIGFPE, &before_, nullptr); }

 private:
  static void step_over(int, siginfo_t*, void* context) {
    auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    const auto* code = reinterpret_cast<const unsigned char*>(registers[REG_RIP]);
    if (*code == 0x66) ++code;           // of 16 bits
    if ((*code & 0xf0) == 0x40) ++code;  // of 64 bits, or with more registers
    const unsigned char opcode = code[0], operand = code[1];
    if ((opcode != 0xf6 && opcode != 0xf7) || (operand >> 3 & 7) < 6) {
      signal(SIGFPE, SIG_DFL);  // no division: it comes again, and ends the process
      return;
    }
    const unsigned mode = operand >> 6, base = operand & 7;
    code += 2;
    if (mode != 3) {
      const bool scaled = base == 4;
      const bool far = mode == 0 && (base == 5 || (scaled && (*code & 7) == 5));
      code += scaled + (mode == 1 ? 1 : mode == 2 || far ? 4 : 0);
    }
    registers[REG_RDX] = 0;
    registers[REG_RIP] = reinterpret_cast<greg_t>(code);
  }

  struct sigaction before_;
};
#else
class QuietDivision {};  // other processors do not mind
#endif
