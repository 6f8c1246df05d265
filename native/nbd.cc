// Kernel NBD as promises. Every call gets a thread of its own, not one of libuv's four: the kernel may hold
// a call for as long as a device hangs, and files must stay usable meanwhile. The thread is detached; when
// its environment ends first, the answer is dropped. A call works on copies of the caller's descriptors: one
// that is closed while the kernel is slow must not turn into another socket under the same number.
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <memory>

#include "exports.h"
#include "js.h"
#include "nbd_commands.h"

namespace holdfast {

namespace {

enum class Command { kConnect, kReconfigure, kDisconnect, kStatus };

struct Call {
  Call(Command wanted, nbd::Configuration settings) : command(wanted), configuration(std::move(settings)) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  ~Call() {
    for (const int32_t fd : configuration.socketFds) ::close(fd);
  }

  Command command;
  /** Its descriptors are this call's own. */
  nbd::Configuration configuration;
  Failure failure = {};
  uint32_t index = 0;
  std::vector<nbd::DeviceState> devices = {};
  napi_deferred deferred = nullptr;
  napi_threadsafe_function report = nullptr;
};

/** Replaces the caller's descriptors by copies; keeps those made so far when one fails. */
Failure takeOver(std::vector<int32_t>* fds) {
  std::vector<int32_t> callers;
  callers.swap(*fds);
  for (const int32_t fd : callers) {
    const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) return Failure::last("fcntl");
    fds->push_back(copy);
  }
  return {};
}

Failure perform(Call& call) {
  switch (call.command) {
    case Command::kConnect:
      return nbd::connect(call.configuration, &call.index);
    case Command::kReconfigure:
      return nbd::reconfigure(call.configuration);
    case Command::kDisconnect:
      return nbd::disconnect(static_cast<uint32_t>(call.configuration.index));
    case Command::kStatus:
      return nbd::status(call.configuration.index, &call.devices);
  }
  return Failure{EINVAL, "netlink"};
}

void* runCall(void* data) {
  std::unique_ptr<Call> call(static_cast<Call*>(data));
  if (!call->failure) call->failure = perform(*call);
  napi_threadsafe_function report = call->report;
  if (napi_call_threadsafe_function(report, call.get(), napi_tsfn_nonblocking) == napi_ok) {
    call.release();
    napi_release_threadsafe_function(report, napi_tsfn_release);
  }
  return nullptr;
}

napi_value makeResult(napi_env env, const Call& call) {
  napi_value result = nullptr;
  napi_get_undefined(env, &result);
  if (call.command == Command::kConnect) napi_create_uint32(env, call.index, &result);
  if (call.command == Command::kStatus) {
    napi_create_array_with_length(env, call.devices.size(), &result);
    for (uint32_t i = 0; i < call.devices.size(); i++) {
      napi_value device, index, connected;
      napi_create_object(env, &device);
      napi_create_uint32(env, call.devices[i].index, &index);
      napi_get_boolean(env, call.devices[i].isConnected, &connected);
      napi_set_named_property(env, device, "index", index);
      napi_set_named_property(env, device, "connected", connected);
      napi_set_element(env, result, i, device);
    }
  }
  return result;
}

/** Back on the JavaScript thread; without an environment when that is ending. */
void settle(napi_env env, napi_value, void*, void* data) {
  const std::unique_ptr<Call> call(static_cast<Call*>(data));
  if (env == nullptr) return;
  if (call->failure) {
    napi_value error = makeNativeError(env, call->failure);
    if (error != nullptr) napi_reject_deferred(env, call->deferred, error);
  } else {
    napi_resolve_deferred(env, call->deferred, makeResult(env, *call));
  }
}

Napi::Value start(Napi::Env env, Command command, nbd::Configuration configuration) {
  const Failure unusable = takeOver(&configuration.socketFds);
  auto call = std::make_unique<Call>(command, std::move(configuration));
  call->failure = unusable;
  napi_value promise = nullptr;
  napi_value name = Napi::String::New(env, "holdfast.nbd");
  if (napi_create_promise(env, &call->deferred, &promise) != napi_ok) return {};
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, settle,
                                      &call->report) != napi_ok) {
    return throwFailure(env, Failure{ENOMEM, "napi_create_threadsafe_function"});
  }

  // Signals are for JavaScript's threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const int error = pthread_create(&thread, nullptr, runCall, call.get());
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error != 0) {
    napi_release_threadsafe_function(call->report, napi_tsfn_release);
    return throwFailure(env, Failure{error, "pthread_create"});
  }
  pthread_detach(thread);
  call.release();
  return Napi::Value(env, promise);
}

/** What connect and reconfigure have in common. */
void readSettings(Reader& reader, Napi::Object options, nbd::Configuration* configuration) {
  configuration->deadConnectionTimeoutSeconds =
      static_cast<uint64_t>(reader.integerField(options, "deadConnectionTimeoutSeconds", 0, INT32_MAX));
  configuration->backendIdentifier = reader.textField(options, "backendIdentifier");
  const Napi::Value fds = reader.field(options, "socketFds");
  if (!reader.ok()) return;
  if (!fds.IsArray()) {
    reader.failType("socketFds must be an array");
    return;
  }
  const auto list = fds.As<Napi::Array>();
  constexpr uint32_t kMaxSockets = 64;
  if (list.Length() > kMaxSockets) reader.failRange("socketFds must have at most 64 elements");
  for (uint32_t i = 0; reader.ok() && i < list.Length(); i++) {
    const Napi::Value fd = list.Get(i);
    configuration->socketFds.push_back(static_cast<int32_t>(reader.integerOf(fd, "socketFds", 0, INT32_MAX)));
  }
}

Napi::Value nbdConnect(const Napi::CallbackInfo& info) {
  Reader reader(info);
  const Napi::Object options = reader.object(0, "options");
  nbd::Configuration configuration;
  configuration.index = static_cast<int32_t>(reader.integerField(options, "index", -1, INT32_MAX));
  configuration.sizeBytes = static_cast<uint64_t>(reader.integerField(options, "sizeBytes", 1, kMaxSafeInteger));
  configuration.blockSizeBytes = static_cast<uint64_t>(reader.integerField(options, "blockSizeBytes", 512, 1 << 20));
  configuration.serverFlags = static_cast<uint64_t>(reader.integerField(options, "serverFlags", 0, UINT32_MAX));
  configuration.timeoutSeconds = static_cast<uint64_t>(reader.integerField(options, "timeoutSeconds", 0, INT32_MAX));
  readSettings(reader, options, &configuration);
  return reader.ok() ? start(info.Env(), Command::kConnect, std::move(configuration)) : Napi::Value();
}

Napi::Value nbdReconfigure(const Napi::CallbackInfo& info) {
  Reader reader(info);
  const Napi::Object options = reader.object(0, "options");
  nbd::Configuration configuration;
  configuration.index = static_cast<int32_t>(reader.integerField(options, "index", 0, INT32_MAX));
  configuration.sizeBytes = static_cast<uint64_t>(reader.integerField(options, "sizeBytes", 0, kMaxSafeInteger));
  readSettings(reader, options, &configuration);
  return reader.ok() ? start(info.Env(), Command::kReconfigure, std::move(configuration)) : Napi::Value();
}

template <Command command, int64_t minIndex>
Napi::Value nbdByIndex(const Napi::CallbackInfo& info) {
  Reader reader(info);
  nbd::Configuration configuration;
  configuration.index = static_cast<int32_t>(reader.integer(0, "index", minIndex, INT32_MAX));
  return reader.ok() ? start(info.Env(), command, std::move(configuration)) : Napi::Value();
}

}  // namespace

void exportNbd(Napi::Env env, Napi::Object exports) {
  exports.Set("nbdConnect", Napi::Function::New<nbdConnect>(env, "nbdConnect"));
  exports.Set("nbdReconfigure", Napi::Function::New<nbdReconfigure>(env, "nbdReconfigure"));
  exports.Set("nbdDisconnect", Napi::Function::New<nbdByIndex<Command::kDisconnect, 0>>(env, "nbdDisconnect"));
  exports.Set("nbdStatus", Napi::Function::New<nbdByIndex<Command::kStatus, -1>>(env, "nbdStatus"));
}

}  // namespace holdfast
