// The border to JavaScript: reading arguments with checks, throwing, and the few conversions that
// node-addon-api does not have. Nothing here aborts the process when the environment is going down.
#pragma once

#include <napi.h>

#include <cstdint>
#include <string>

#include "failure.h"

namespace holdfast {

/** Below 2^53, so that every integer up to it is exact in JavaScript. */
constexpr int64_t kMaxSafeInteger = 9007199254740991;

Napi::Value throwTypeError(Napi::Env env, const std::string& message);
Napi::Value throwRangeError(Napi::Env env, const std::string& message);
/** Throws a NativeError: `code`, `errno` (positive) and `syscall` as in native.ts. */
Napi::Value throwFailure(Napi::Env env, const Failure& failure);
napi_value makeNativeError(napi_env env, const Failure& failure);

/**
 * Reads checked values. The first bad one throws, and from then on every read returns nothing and
 * ok() is false: callers read all their arguments and ask once.
 */
class Reader {
 public:
  explicit Reader(const Napi::CallbackInfo& info) : info_(info), env_(info.Env()) {}

  int64_t integer(size_t index, const char* name, int64_t min, int64_t max) {
    return integerOf(info_[index], name, min, max);
  }
  int fd(size_t index, const char* name = "fd") {
    return static_cast<int>(integer(index, name, 0, INT32_MAX));
  }
  std::string text(size_t index, const char* name) { return textOf(info_[index], name); }
  bool boolean(size_t index, const char* name);
  Napi::Object object(size_t index, const char* name);

  int64_t integerField(Napi::Object object, const char* name, int64_t min, int64_t max) {
    return integerOf(field(object, name), name, min, max);
  }
  std::string textField(Napi::Object object, const char* name) {
    return textOf(field(object, name), name);
  }
  /** A property, or an empty value once anything went wrong. */
  Napi::Value field(Napi::Object object, const char* name);
  int64_t integerOf(Napi::Value value, const char* name, int64_t min, int64_t max);

  bool ok() const { return ok_; }
  void failType(const std::string& message);
  void failRange(const std::string& message);

 private:
  std::string textOf(Napi::Value value, const char* name);

  const Napi::CallbackInfo& info_;
  Napi::Env env_;
  bool ok_ = true;
};

/** An ArrayBuffer over memory that the addon keeps owning. Empty, with an exception pending, when refused. */
Napi::Value externalArrayBuffer(Napi::Env env, void* address, size_t byteCount);

}  // namespace holdfast
