#include "js.h"

#include <cmath>
#include <cstring>

namespace holdfast {

namespace {

// Throwing while an exception is pending, or while the environment is being torn down, is not possible;
// the call simply returns then, and JavaScript does not go on.
using Thrower = napi_status (*)(napi_env, const char* code, const char* message);

Napi::Value throwWith(Napi::Env env, Thrower thrower, const std::string& message) {
  bool isPending = false;
  if (napi_is_exception_pending(env, &isPending) == napi_ok && !isPending) {
    thrower(env, nullptr, message.c_str());
  }
  return Napi::Value();
}

napi_value makeString(napi_env env, const std::string& text) {
  napi_value value = nullptr;
  napi_create_string_utf8(env, text.data(), text.size(), &value);
  return value;
}

}  // namespace

Napi::Value throwTypeError(Napi::Env env, const std::string& message) {
  return throwWith(env, napi_throw_type_error, message);
}

Napi::Value throwRangeError(Napi::Env env, const std::string& message) {
  return throwWith(env, napi_throw_range_error, message);
}

napi_value makeNativeError(napi_env env, const Failure& failure) {
  const char* name = strerrorname_np(failure.error);
  const std::string code = name != nullptr ? name : "E" + std::to_string(failure.error);
  std::string message = std::string(failure.syscall) + ": " + strerrordesc_np(failure.error) + " (" + code + ")";
  if (!failure.detail.empty()) message += ": " + failure.detail;

  napi_value error = nullptr;
  napi_value codeValue = makeString(env, code);
  if (napi_create_error(env, codeValue, makeString(env, message), &error) != napi_ok) return nullptr;
  napi_value errnoValue = nullptr;
  napi_create_int32(env, failure.error, &errnoValue);
  napi_set_named_property(env, error, "errno", errnoValue);
  napi_set_named_property(env, error, "syscall", makeString(env, failure.syscall));
  return error;
}

Napi::Value throwFailure(Napi::Env env, const Failure& failure) {
  bool isPending = false;
  if (napi_is_exception_pending(env, &isPending) != napi_ok || isPending) return Napi::Value();
  napi_value error = makeNativeError(env, failure);
  if (error != nullptr) napi_throw(env, error);
  return Napi::Value();
}

void Reader::failType(const std::string& message) {
  if (ok_) throwTypeError(env_, message);
  ok_ = false;
}

void Reader::failRange(const std::string& message) {
  if (ok_) throwRangeError(env_, message);
  ok_ = false;
}

int64_t Reader::integerOf(Napi::Value value, const char* name, int64_t min, int64_t max) {
  if (!ok_) return 0;
  if (!value.IsNumber()) {
    failType(std::string(name) + " must be a number");
    return 0;
  }
  double number = 0;
  napi_get_value_double(env_, value, &number);
  if (!(number >= static_cast<double>(min) && number <= static_cast<double>(max)) || std::trunc(number) != number) {
    failRange(std::string(name) + " must be an integer from " + std::to_string(min) + " to " + std::to_string(max));
    return 0;
  }
  return static_cast<int64_t>(number);
}

std::string Reader::textOf(Napi::Value value, const char* name) {
  if (!ok_) return {};
  if (!value.IsString()) {
    failType(std::string(name) + " must be a string");
    return {};
  }
  std::string text = value.As<Napi::String>().Utf8Value();
  if (text.find('\0') != std::string::npos) failType(std::string(name) + " must not contain a NUL character");
  return text;
}

bool Reader::boolean(size_t index, const char* name) {
  if (!ok_) return false;
  if (!info_[index].IsBoolean()) {
    failType(std::string(name) + " must be a boolean");
    return false;
  }
  return info_[index].As<Napi::Boolean>().Value();
}

Napi::Object Reader::object(size_t index, const char* name) {
  if (!ok_) return {};
  if (!info_[index].IsObject()) {
    failType(std::string(name) + " must be an object");
    return {};
  }
  return info_[index].As<Napi::Object>();
}

Napi::Value Reader::field(Napi::Object object, const char* name) {
  if (!ok_) return {};
  napi_value value = nullptr;
  // Fails when a getter threw: that exception is the one the caller sees.
  if (napi_get_named_property(env_, object, name, &value) != napi_ok) {
    ok_ = false;
    return {};
  }
  return Napi::Value(env_, value);
}

Napi::Value externalArrayBuffer(Napi::Env env, void* address, size_t byteCount) {
  napi_value buffer = nullptr;
  const napi_status status = napi_create_external_arraybuffer(env, address, byteCount, nullptr, nullptr, &buffer);
  if (status != napi_ok) return throwRangeError(env, "this runtime cannot map " + std::to_string(byteCount) + " bytes");
  return Napi::Value(env, buffer);
}

}  // namespace holdfast
