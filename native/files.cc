// What Node's own fs module does not offer: locks, holes, and the room a file system has left.
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>

#include "exports.h"
#include "js.h"

namespace holdfast {

namespace {

Napi::Value tryLock(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const int fd = reader.fd(0);
  if (!reader.ok()) return {};
  while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return Napi::Boolean::New(env, false);
    if (errno != EINTR) return throwFailure(env, Failure::last("flock"));
  }
  return Napi::Boolean::New(env, true);
}

Napi::Value nextRun(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const int fd = reader.fd(0);
  const int64_t offset = reader.integer(1, "offset", 0, kMaxSafeInteger - 1);
  const int64_t endOffset = reader.integer(2, "endOffset", offset + 1, kMaxSafeInteger);
  if (!reader.ok()) return {};

  // The file position moves; nobody here reads or writes by it.
  bool isData = false;
  int64_t runEnd = lseek(fd, offset, SEEK_DATA);
  if (runEnd == offset) {
    isData = true;
    runEnd = lseek(fd, offset, SEEK_HOLE);
  }
  // ENXIO: no data up to the end of the file, and none beyond it.
  if (runEnd < 0 && errno != ENXIO) return throwFailure(env, Failure::last("lseek"));
  if (runEnd < 0) {
    isData = false;
    runEnd = endOffset;
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("endOffset", static_cast<double>(std::min(runEnd, endOffset)));
  result.Set("isData", isData);
  return result;
}

Napi::Value fileSystemSpace(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const int fd = reader.fd(0);
  if (!reader.ok()) return {};
  struct statvfs space = {};
  if (fstatvfs(fd, &space) != 0) return throwFailure(env, Failure::last("fstatvfs"));
  const auto fragmentBytes = static_cast<double>(space.f_frsize);
  Napi::Object result = Napi::Object::New(env);
  result.Set("availableBytes", fragmentBytes * static_cast<double>(space.f_bavail));
  result.Set("totalBytes", fragmentBytes * static_cast<double>(space.f_blocks));
  return result;
}

}  // namespace

void exportFiles(Napi::Env env, Napi::Object exports) {
  exports.Set("tryLock", Napi::Function::New<tryLock>(env, "tryLock"));
  exports.Set("nextRun", Napi::Function::New<nextRun>(env, "nextRun"));
  exports.Set("fileSystemSpace", Napi::Function::New<fileSystemSpace>(env, "fileSystemSpace"));
}

}  // namespace holdfast
