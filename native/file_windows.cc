#include "file_windows.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "environment.h"
#include "exports.h"
#include "js.h"

namespace holdfast {

namespace {

constexpr size_t kPageBytes = 4096;
/** How many pages one call asks about. */
constexpr size_t kPagesAtOnce = 256;
constexpr int64_t kMaxBytes = int64_t{1} << 40;

Napi::Value mapWindow(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const auto place = static_cast<size_t>(reader.integer(0, "place", 0, FileWindows::kCount - 1));
  const int fd = reader.fd(1);
  const int64_t offset = reader.integer(2, "offset", 0, kMaxSafeInteger - kMaxBytes);
  const auto byteCount = static_cast<size_t>(reader.integer(3, "byteCount", 1, kMaxBytes));
  if (!reader.ok()) return {};
  if (offset % static_cast<int64_t>(kPageBytes) != 0 || byteCount % kPageBytes != 0) {
    return throwRangeError(env, "a window begins and ends at a multiple of 4096");
  }
  const int error = Environment::of(env).windows().set(place, fd, static_cast<uint64_t>(offset), byteCount);
  return Napi::Number::New(env, -error);
}

Napi::Value unmapWindow(const Napi::CallbackInfo& info) {
  Reader reader(info);
  const auto place = static_cast<size_t>(reader.integer(0, "place", 0, FileWindows::kCount - 1));
  if (!reader.ok()) return {};
  Environment::of(info.Env()).windows().clear(place);
  return info.Env().Undefined();
}

}  // namespace

int FileWindows::set(size_t place, int fd, uint64_t offset, size_t byteCount) {
  clear(place);
  void* address = mmap(nullptr, byteCount, PROT_READ, MAP_SHARED, fd, static_cast<off_t>(offset));
  if (address == MAP_FAILED) return errno;
  // No child reads it. Someone who locks all memory to come (mlockall) does not mean these pages.
  madvise(address, byteCount, MADV_DONTFORK);
  munlock(address, byteCount);
  windows_[place] = {static_cast<uint8_t*>(address), byteCount};
  return 0;
}

void FileWindows::clear(size_t place) {
  Window& window = windows_[place];
  if (window.address != nullptr) munmap(window.address, window.byteCount);
  window = {};
}

void FileWindows::clearAll() {
  for (size_t place = 0; place < kCount; place++) clear(place);
}

const uint8_t* FileWindows::cached(size_t place, size_t offset, size_t length) const {
  const uint8_t* begin = windows_[place].address + offset;
  const uint8_t* end = begin + length;
  auto* at = windows_[place].address + offset / kPageBytes * kPageBytes;
  unsigned char pages[kPagesAtOnce];
  while (at < end) {
    const size_t left = (static_cast<size_t>(end - at) + kPageBytes - 1) / kPageBytes;
    const size_t count = std::min(left, kPagesAtOnce);
    if (mincore(at, count * kPageBytes, pages) != 0) return nullptr;
    if (!std::all_of(pages, pages + count, [](unsigned char page) { return (page & 1) != 0; })) return nullptr;
    at += count * kPageBytes;
  }
  return begin;
}

void exportFileWindows(Napi::Env env, Napi::Object exports) {
  exports.Set("mapWindow", Napi::Function::New<mapWindow>(env, "mapWindow"));
  exports.Set("unmapWindow", Napi::Function::New<unmapWindow>(env, "unmapWindow"));
}

}  // namespace holdfast
