// Rings in JavaScript's hands. `enter` is the one hot call of the whole addon and goes through the plain
// C interface: no object is made, nothing is allocated. Everything else runs once per ring.
#include <algorithm>

#include "environment.h"
#include "exports.h"
#include "js.h"

namespace holdfast {

namespace {

constexpr int64_t kMaxFileSlots = 1 << 20;
constexpr int64_t kMaxSpinMicros = 1'000'000;
constexpr int64_t kMaxTimeoutMicros = int64_t{1} << 50;

const char* refusal(napi_env env, napi_value value) {
  return Environment::wasRing(env, value) ? "this ring is closed" : "not a ring of this thread";
}

OwnedRing* readRing(const Napi::CallbackInfo& info) {
  OwnedRing* ring = Environment::of(info.Env()).findRing(info.Env(), info[0]);
  if (ring == nullptr) throwTypeError(info.Env(), refusal(info.Env(), info[0]));
  return ring;
}

/** Any call that could run script is refused once the thread is being terminated; this is the cheapest. */
bool isStopping(void* context) {
  auto* env = static_cast<napi_env>(context);
  napi_value value = nullptr;
  return napi_get_boolean(env, true, &value) != napi_ok || napi_coerce_to_bool(env, value, &value) != napi_ok;
}

napi_value enter(napi_env env, napi_callback_info info) {
  napi_value arguments[5];
  size_t count = 5;
  napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
  OwnedRing* owned = count == 5 ? Environment::of(env).findRing(env, arguments[0]) : nullptr;
  if (owned == nullptr) {
    napi_throw_type_error(env, nullptr, count == 5 ? refusal(env, arguments[0]) : "enter takes five arguments");
    return nullptr;
  }
  int64_t submitCount, waitCount, spinMicros, timeoutMicros;
  if (napi_get_value_int64(env, arguments[1], &submitCount) != napi_ok ||
      napi_get_value_int64(env, arguments[2], &waitCount) != napi_ok ||
      napi_get_value_int64(env, arguments[3], &spinMicros) != napi_ok ||
      napi_get_value_int64(env, arguments[4], &timeoutMicros) != napi_ok) {
    napi_throw_type_error(env, nullptr, "submitCount, waitCount, spinMicros and timeoutMicros must be numbers");
    return nullptr;
  }
  const io_uring_params& params = owned->ring.params();
  if (submitCount < 0 || submitCount > params.sq_entries || waitCount < 0 || waitCount > params.cq_entries ||
      spinMicros < 0 || spinMicros > kMaxSpinMicros || timeoutMicros < -1 || timeoutMicros > kMaxTimeoutMicros) {
    napi_throw_range_error(env, nullptr,
                           "enter: submitCount and waitCount must fit the ring, spinMicros be 0 to 1000000, "
                           "timeoutMicros -1 or more");
    return nullptr;
  }
  const EnterRequest request = {static_cast<uint32_t>(submitCount), static_cast<uint32_t>(waitCount), spinMicros,
                                timeoutMicros};
  napi_value result = nullptr;
  napi_create_int32(env, owned->ring.enter(request, isStopping, env), &result);
  return result;
}

Napi::Value probeRing(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  RingCapabilities capabilities;
  const Failure failure = IoRing::probe(&capabilities);
  Napi::Uint8Array opcodes = Napi::Uint8Array::New(env, capabilities.opcodes.size());
  // Not made when the thread is being terminated.
  if (opcodes.IsEmpty()) return {};
  if (!failure) std::copy(capabilities.opcodes.begin(), capabilities.opcodes.end(), opcodes.Data());
  Napi::Object result = Napi::Object::New(env);
  result.Set("errno", failure.error);
  result.Set("features", capabilities.features);
  result.Set("setupFlags", capabilities.setupFlags);
  result.Set("opcodes", opcodes);
  return result;
}

Napi::Object describeOffsets(Napi::Env env, const io_uring_params& params) {
  Napi::Object offsets = Napi::Object::New(env);
  offsets.Set("sqHead", params.sq_off.head);
  offsets.Set("sqTail", params.sq_off.tail);
  offsets.Set("sqFlags", params.sq_off.flags);
  offsets.Set("sqDropped", params.sq_off.dropped);
  offsets.Set("cqHead", params.cq_off.head);
  offsets.Set("cqTail", params.cq_off.tail);
  offsets.Set("cqOverflow", params.cq_off.overflow);
  offsets.Set("cqes", params.cq_off.cqes);
  return offsets;
}

Napi::Value createRing(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const auto submissionCount = static_cast<uint32_t>(reader.integer(0, "submissionCount", 1, kMaxSubmissionCount));
  const auto completionCount =
      static_cast<uint32_t>(reader.integer(1, "completionCount", submissionCount, kMaxCompletionCount));
  if (!reader.ok()) return {};

  auto owned = std::make_unique<OwnedRing>();
  IoRing& ring = owned->ring;
  const Failure failure = ring.open(submissionCount, completionCount);
  if (failure) return throwFailure(env, failure);
  const Napi::Value memory = externalArrayBuffer(env, ring.memory(), ring.memoryBytes());
  if (memory.IsEmpty()) return {};
  const Napi::Value entries = externalArrayBuffer(env, ring.entries(), ring.entriesBytes());
  if (entries.IsEmpty()) {
    napi_detach_arraybuffer(env, memory);
    return {};
  }
  napi_create_reference(env, memory, 1, &owned->memory);
  napi_create_reference(env, entries, 1, &owned->entries);

  Napi::Object result = Napi::Object::New(env);
  result.Set("fd", ring.fd());
  result.Set("setupFlags", ring.params().flags);
  result.Set("features", ring.params().features);
  result.Set("memory", memory);
  result.Set("submissionEntries", entries);
  result.Set("submissionCount", ring.params().sq_entries);
  result.Set("completionCount", ring.params().cq_entries);
  result.Set("offsets", describeOffsets(env, ring.params()));
  Environment::of(env).adopt(env, result, std::move(owned));
  return result;
}

Napi::Value registerFiles(const Napi::CallbackInfo& info) {
  OwnedRing* owned = readRing(info);
  if (owned == nullptr) return {};
  Reader reader(info);
  const auto count = static_cast<uint32_t>(reader.integer(1, "count", 1, kMaxFileSlots));
  if (!reader.ok()) return {};
  const Failure failure = owned->ring.registerFiles(count);
  return failure ? throwFailure(info.Env(), failure) : info.Env().Undefined();
}

Napi::Value updateFile(const Napi::CallbackInfo& info) {
  OwnedRing* owned = readRing(info);
  if (owned == nullptr) return {};
  Reader reader(info);
  const auto slot = static_cast<uint32_t>(reader.integer(1, "slot", 0, kMaxFileSlots - 1));
  const auto fd = static_cast<int>(reader.integer(2, "fd", -1, INT32_MAX));
  if (!reader.ok()) return {};
  const Failure failure = owned->ring.updateFile(slot, fd);
  return failure ? throwFailure(info.Env(), failure) : info.Env().Undefined();
}

Napi::Value closeRing(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Environment& environment = Environment::of(env);
  OwnedRing* owned = environment.findRing(env, info[0]);
  if (owned == nullptr) {
    if (Environment::wasRing(env, info[0])) return env.Undefined();
    return throwTypeError(env, "not a ring of this thread");
  }
  if (!environment.release(env, info[0].As<Napi::Object>(), owned)) {
    return throwTypeError(env, "a buffer of this ring was transferred: it cannot be closed safely");
  }
  return env.Undefined();
}

}  // namespace

void exportRings(Napi::Env env, Napi::Object exports) {
  napi_value enterFunction = nullptr;
  napi_create_function(env, "enter", NAPI_AUTO_LENGTH, enter, nullptr, &enterFunction);
  exports.Set("enter", enterFunction);
  exports.Set("probeRing", Napi::Function::New<probeRing>(env, "probeRing"));
  exports.Set("createRing", Napi::Function::New<createRing>(env, "createRing"));
  exports.Set("registerFiles", Napi::Function::New<registerFiles>(env, "registerFiles"));
  exports.Set("updateFile", Napi::Function::New<updateFile>(env, "updateFile"));
  exports.Set("closeRing", Napi::Function::New<closeRing>(env, "closeRing"));
}

}  // namespace holdfast
