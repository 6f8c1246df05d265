// Memory at fixed addresses: anonymous arenas for data, and mapped files for the in-flight window.
#include <sys/mman.h>
#include <sys/stat.h>

#include <atomic>

#include "environment.h"
#include "exports.h"
#include "js.h"
#include "locked_memory.h"

namespace holdfast {

namespace {

std::atomic<bool> mappingsAreLocked = false;

constexpr size_t kAlignment = 2 << 20;
constexpr int64_t kMaxBytes = int64_t{1} << 40;

/** Maps more than asked and gives back the ends, so that what stays begins at a multiple of 2 MiB. */
void* mapAligned(size_t byteCount) {
  const size_t spacious = byteCount + kAlignment;
  void* mapped = mmap(nullptr, spacious, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return MAP_FAILED;
  auto* begin = static_cast<uint8_t*>(mapped);
  const size_t skip = (kAlignment - reinterpret_cast<uintptr_t>(begin) % kAlignment) % kAlignment;
  const size_t pageCount = (byteCount + 4095) / 4096;
  if (skip > 0) munmap(begin, skip);
  munmap(begin + skip + pageCount * 4096, spacious - skip - pageCount * 4096);
  return begin + skip;
}

Napi::Value publish(Napi::Env env, void* address, size_t byteCount) {
  const Napi::Value buffer = externalArrayBuffer(env, address, byteCount);
  if (buffer.IsEmpty()) {
    munmap(address, byteCount);
    return {};
  }
  auto mapping = std::make_unique<Mapping>();
  mapping->address = address;
  mapping->byteCount = byteCount;
  napi_create_reference(env, buffer, 1, &mapping->buffer);
  Napi::Object result = Napi::Object::New(env);
  result.Set("buffer", buffer);
  result.Set("address", static_cast<double>(reinterpret_cast<uintptr_t>(address)));
  Environment::of(env).adopt(env, result, std::move(mapping));
  return result;
}

Napi::Value createMemory(const Napi::CallbackInfo& info) {
  Reader reader(info);
  const auto byteCount = static_cast<size_t>(reader.integer(0, "byteCount", 1, kMaxBytes));
  if (!reader.ok()) return {};
  void* address = mapAligned(byteCount);
  if (address == MAP_FAILED) return throwFailure(info.Env(), Failure::last("mmap"));
  // A fork while the disk writes into a page would leave this process a copy of the page without what the
  // disk writes after; kernels before 6.3 do that to pages under direct I/O. The child has no use for them.
  madvise(address, byteCount, MADV_DONTFORK);
  lockIfAsked(address, byteCount);
  return publish(info.Env(), address, byteCount);
}

Napi::Value mapFile(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const int fd = reader.fd(0);
  const auto byteCount = static_cast<size_t>(reader.integer(1, "byteCount", 1, kMaxBytes));
  if (!reader.ok()) return {};
  struct stat status = {};
  if (fstat(fd, &status) != 0) return throwFailure(env, Failure::last("fstat"));
  // Touching a page past the end would kill the process with SIGBUS.
  if (static_cast<size_t>(status.st_size) < byteCount) {
    return throwRangeError(env, "the file has " + std::to_string(status.st_size) + " bytes, fewer than the " +
                                    std::to_string(byteCount) + " to map");
  }
  void* address = mmap(nullptr, byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) return throwFailure(env, Failure::last("mmap"));
  madvise(address, byteCount, MADV_DONTFORK);
  lockIfAsked(address, byteCount);
  return publish(env, address, byteCount);
}

Napi::Value freeMemory(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Environment& environment = Environment::of(env);
  Mapping* mapping = environment.findMapping(env, info[0]);
  if (mapping == nullptr) {
    if (Environment::wasMapping(env, info[0])) return env.Undefined();
    return throwTypeError(env, "not memory of this thread");
  }
  if (!environment.release(env, info[0].As<Napi::Object>(), mapping)) {
    return throwTypeError(env, "the buffer was transferred: the memory cannot be freed safely");
  }
  return env.Undefined();
}

}  // namespace

void lockMappings() { mappingsAreLocked = true; }

void lockIfAsked(void* address, size_t byteCount) {
  if (mappingsAreLocked) mlock2(address, byteCount, MLOCK_ONFAULT);
}

void exportMemory(Napi::Env env, Napi::Object exports) {
  exports.Set("createMemory", Napi::Function::New<createMemory>(env, "createMemory"));
  exports.Set("mapFile", Napi::Function::New<mapFile>(env, "mapFile"));
  exports.Set("freeMemory", Napi::Function::New<freeMemory>(env, "freeMemory"));
}

}  // namespace holdfast
