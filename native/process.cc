// Properties of the process: how the kernel treats its memory, and its clock.
#include <sys/mman.h>
#include <sys/prctl.h>

#include <ctime>

#include "exports.h"
#include "js.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

namespace holdfast {

namespace {

Napi::Value setIoFlusher(const Napi::CallbackInfo& info) {
  Reader reader(info);
  const bool on = reader.boolean(0, "on");
  if (!reader.ok()) return {};
  if (prctl(PR_SET_IO_FLUSHER, on ? 1L : 0L, 0L, 0L, 0L) != 0) {
    return throwFailure(info.Env(), Failure::last("prctl"));
  }
  return info.Env().Undefined();
}

Napi::Value lockMemory(const Napi::CallbackInfo& info) {
  // On fault: V8 reserves gigabytes that it never touches.
  if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0) {
    return throwFailure(info.Env(), Failure::last("mlockall"));
  }
  return info.Env().Undefined();
}

Napi::Value bootTimeMs(const Napi::CallbackInfo& info) {
  timespec now = {};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return Napi::Number::New(info.Env(), static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6);
}

}  // namespace

void exportProcess(Napi::Env env, Napi::Object exports) {
  exports.Set("setIoFlusher", Napi::Function::New<setIoFlusher>(env, "setIoFlusher"));
  exports.Set("lockMemory", Napi::Function::New<lockMemory>(env, "lockMemory"));
  exports.Set("bootTimeMs", Napi::Function::New<bootTimeMs>(env, "bootTimeMs"));
}

}  // namespace holdfast
