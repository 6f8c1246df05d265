// What a system call that failed leaves behind. Functions that talk to the kernel return it by value;
// only js.h turns it into a JavaScript error.
#pragma once

#include <cerrno>
#include <string>

namespace holdfast {

struct Failure {
  /** Positive errno; 0 means that nothing failed. */
  int error = 0;
  const char* syscall = "";
  /** What the kernel said beside the number, if it said anything. */
  std::string detail = {};

  explicit operator bool() const { return error != 0; }

  static Failure last(const char* syscall) { return Failure{errno, syscall}; }
};

}  // namespace holdfast
