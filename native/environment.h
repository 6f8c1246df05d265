// What one JavaScript environment (the main thread or one worker) owns here: its rings and its mapped
// memory. JavaScript objects never cross threads, so each Environment is used by one thread only, and a
// ring or memory object that is not in its lists is refused before anything is read through it.
// A cleanup hook frees everything when the thread's environment ends, however it ends.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "file_windows.h"
#include "io_ring.h"

namespace holdfast {

/** Mapped memory and the ArrayBuffer that shows it. */
struct Mapping {
  void* address = nullptr;
  size_t byteCount = 0;
  napi_ref buffer = nullptr;
};

/** A ring and the two ArrayBuffers that show its memory. */
struct OwnedRing {
  IoRing ring;
  napi_ref memory = nullptr;
  napi_ref entries = nullptr;
};

class Environment {
 public:
  /** Creates the state of this environment and registers its cleanup. */
  static void open(Napi::Env env);
  static Environment& of(napi_env env);

  /** The ring behind a value, or nullptr when the value is anything else. Throws nothing, allocates nothing. */
  OwnedRing* findRing(napi_env env, napi_value value) const;
  Mapping* findMapping(napi_env env, napi_value value) const;

  /** True for an object that was a ring (or memory) of this environment and has been closed. */
  static bool wasRing(napi_env env, napi_value value);
  static bool wasMapping(napi_env env, napi_value value);

  /**
   * Owns it from now on, and ties `object` to it for find…() and was…(). False with an exception pending: then
   * nobody can reach it, and it is freed with the environment.
   */
  bool adopt(napi_env env, Napi::Object object, std::unique_ptr<OwnedRing> ring);
  bool adopt(napi_env env, Napi::Object object, std::unique_ptr<Mapping> mapping);

  /** Unties, detaches the buffers, frees. False when script has moved a buffer away: nothing is freed then. */
  bool release(napi_env env, Napi::Object object, OwnedRing* ring);
  bool release(napi_env env, Napi::Object object, Mapping* mapping);

  bool ownsRingFd(int fd) const;

  FileWindows& windows() { return windows_; }

 private:
  explicit Environment(napi_env env) : env_(env) {}
  void freeEverything();

  napi_env env_;
  std::vector<std::unique_ptr<OwnedRing>> rings_;
  std::vector<std::unique_ptr<Mapping>> mappings_;
  FileWindows windows_;
};

}  // namespace holdfast
