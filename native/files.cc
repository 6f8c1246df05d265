// What Node's own fs module does not offer: locks, holes, and the room a file system has left.
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

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

/** Whether a file holds data anywhere, asked on one of libuv's threads: a disk that hangs holds up no other. */
struct DataSearch {
  int fd = -1;
  bool isFound = false;
  Failure failure = {};
  napi_deferred deferred = nullptr;
  napi_async_work work = nullptr;
};

void searchData(napi_env, void* data) {
  auto* search = static_cast<DataSearch*>(data);
  search->isFound = lseek(search->fd, 0, SEEK_DATA) >= 0;
  if (!search->isFound && errno != ENXIO) search->failure = Failure::last("lseek");
}

/** Back on the JavaScript thread. */
void tellData(napi_env env, napi_status, void* data) {
  const std::unique_ptr<DataSearch> search(static_cast<DataSearch*>(data));
  napi_delete_async_work(env, search->work);
  if (search->failure) {
    napi_value error = makeNativeError(env, search->failure);
    if (error != nullptr) napi_reject_deferred(env, search->deferred, error);
    return;
  }
  napi_value isFound = nullptr;
  napi_get_boolean(env, search->isFound, &isFound);
  napi_resolve_deferred(env, search->deferred, isFound);
}

Napi::Value hasData(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  auto search = std::make_unique<DataSearch>();
  search->fd = reader.fd(0);
  if (!reader.ok()) return {};
  napi_value promise = nullptr;
  napi_value name = Napi::String::New(env, "holdfast.hasData");
  if (napi_create_promise(env, &search->deferred, &promise) != napi_ok ||
      napi_create_async_work(env, nullptr, name, searchData, tellData, search.get(), &search->work) != napi_ok) {
    return throwFailure(env, Failure{ENOMEM, "napi_create_async_work"});
  }
  if (napi_queue_async_work(env, search->work) != napi_ok) {
    napi_delete_async_work(env, search->work);
    return throwFailure(env, Failure{EAGAIN, "napi_queue_async_work"});
  }
  search.release();
  return Napi::Value(env, promise);
}

/** Where an overwrite of the extent needs other blocks, its own are of no help. */
constexpr uint32_t kNeedsOtherBlocks = FIEMAP_EXTENT_SHARED | FIEMAP_EXTENT_ENCODED;
constexpr uint32_t kExtentsPerCall = 32;

/** Not in linux/magic.h. */
constexpr uint64_t kBcachefsMagic = 0xca451a4e;
constexpr uint64_t kZfsMagic = 0x2fc12fc1;

/** Whether an overwrite goes to new blocks, whoever else uses the old ones: FIEMAP shows them like any others. */
bool isCopiedOnWrite(int fd, Failure& failure) {
  struct statfs fileSystem = {};
  if (fstatfs(fd, &fileSystem) != 0) {
    failure = Failure::last("fstatfs");
    return true;
  }
  switch (static_cast<uint64_t>(fileSystem.f_type)) {
    case BTRFS_SUPER_MAGIC: {
      int flags = 0;
      return ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0 || (flags & FS_NOCOW_FL) == 0;
    }
    case kBcachefsMagic:
    case kZfsMagic:
    case NILFS_SUPER_MAGIC:
      return true;
    default:
      return false;
  }
}

enum class Allocation { whole, partial, unsupported };

/** Whether every byte of the range has blocks of its own, written or not. */
Allocation allocationOf(int fd, uint64_t offset, uint64_t endOffset, Failure& failure) {
  while (offset < endOffset) {
    alignas(fiemap) uint8_t memory[sizeof(fiemap) + kExtentsPerCall * sizeof(fiemap_extent)] = {};
    auto* map = reinterpret_cast<fiemap*>(memory);
    map->fm_start = offset;
    map->fm_length = endOffset - offset;
    map->fm_extent_count = kExtentsPerCall;
    if (ioctl(fd, FS_IOC_FIEMAP, map) != 0) {
      if (errno == EOPNOTSUPP || errno == ENOTTY) return Allocation::unsupported;
      failure = Failure::last("ioctl(FS_IOC_FIEMAP)");
      return Allocation::partial;
    }
    const uint64_t from = offset;
    for (uint32_t index = 0; index < map->fm_mapped_extents; index++) {
      const fiemap_extent& extent = map->fm_extents[index];
      if (extent.fe_logical > offset || (extent.fe_flags & kNeedsOtherBlocks) != 0) return Allocation::partial;
      offset = std::max<uint64_t>(offset, extent.fe_logical + extent.fe_length);
    }
    if (offset == from) return Allocation::partial;
  }
  return Allocation::whole;
}

Napi::Value isAllocated(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const int fd = reader.fd(0);
  const int64_t offset = reader.integer(1, "offset", 0, kMaxSafeInteger - 1);
  const int64_t length = reader.integer(2, "length", 1, kMaxSafeInteger - offset);
  if (!reader.ok()) return {};
  Failure failure;
  const bool isCopied = isCopiedOnWrite(fd, failure);
  if (failure) return throwFailure(env, failure);
  if (isCopied) return Napi::Boolean::New(env, false);
  Allocation allocation = allocationOf(fd, offset, offset + length, failure);
  if (failure) return throwFailure(env, failure);
  if (allocation == Allocation::unsupported) {
    // Data has blocks; blocks that hold none yet are taken for a hole here.
    const bool isData = lseek(fd, offset, SEEK_DATA) == offset && lseek(fd, offset, SEEK_HOLE) >= offset + length;
    return Napi::Boolean::New(env, isData);
  }
  return Napi::Boolean::New(env, allocation == Allocation::whole);
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
  exports.Set("hasData", Napi::Function::New<hasData>(env, "hasData"));
  exports.Set("isAllocated", Napi::Function::New<isAllocated>(env, "isAllocated"));
  exports.Set("fileSystemSpace", Napi::Function::New<fileSystemSpace>(env, "fileSystemSpace"));
}

}  // namespace holdfast
