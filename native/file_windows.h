// Pieces of files mapped to be sent from: shared, read-only, never locked, never shown to JavaScript.
// A few numbered places a thread; who decides what is mapped where is src/dataplane/file-windows.ts.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace holdfast {

class FileWindows {
 public:
  static constexpr size_t kCount = 16;

  FileWindows() = default;
  FileWindows(const FileWindows&) = delete;
  FileWindows& operator=(const FileWindows&) = delete;
  ~FileWindows() { clearAll(); }

  /** Unmaps what was there. 0 or an errno; after an error the place is empty. */
  int set(size_t place, int fd, uint64_t offset, size_t byteCount);
  void clear(size_t place);
  void clearAll();

  /** 0 where nothing is mapped. */
  size_t byteCount(size_t place) const { return windows_[place].byteCount; }

  /**
   * The bytes, if the page cache holds all of them now; else nullptr. Reading them elsewhere than in a system
   * call is forbidden: past the end of the file, or where the disk fails, that would kill the process.
   */
  const uint8_t* cached(size_t place, size_t offset, size_t length) const;

 private:
  struct Window {
    uint8_t* address = nullptr;
    size_t byteCount = 0;
  };
  std::array<Window, kCount> windows_;
};

}  // namespace holdfast
