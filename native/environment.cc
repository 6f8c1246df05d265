#include "environment.h"

#include <sys/mman.h>

#include <algorithm>

namespace holdfast {

namespace {

constexpr napi_type_tag kRingTag = {0x9c1d6f0b52e84a37, 0x8f3e01c7ba6d9254};
constexpr napi_type_tag kMappingTag = {0x41b7e2d39a5c4f68, 0xb0d58e6f1723ca90};

bool hasTag(napi_env env, napi_value value, const napi_type_tag& tag) {
  napi_valuetype type;
  bool matches = false;
  return napi_typeof(env, value, &type) == napi_ok && type == napi_object &&
         napi_check_object_type_tag(env, value, &tag, &matches) == napi_ok && matches;
}

/** Membership in our own list is what makes the pointer ours: another addon may have wrapped this object. */
template <typename Owned>
Owned* findOwned(napi_env env, napi_value value, const std::vector<std::unique_ptr<Owned>>& list) {
  void* wrapped = nullptr;
  if (napi_unwrap(env, value, &wrapped) != napi_ok) return nullptr;
  for (const auto& owned : list) {
    if (owned.get() == wrapped) return owned.get();
  }
  return nullptr;
}

template <typename Owned>
void forget(std::vector<std::unique_ptr<Owned>>& list, Owned* owned) {
  std::erase_if(list, [owned](const auto& item) { return item.get() == owned; });
}

bool tie(napi_env env, Napi::Object object, void* owned, const napi_type_tag& tag) {
  return napi_wrap(env, object, owned, nullptr, nullptr, nullptr) == napi_ok &&
         napi_type_tag_object(env, object, &tag) == napi_ok && napi_object_freeze(env, object) == napi_ok;
}

/** Detached already by someone else: ArrayBuffer.prototype.transfer gave the memory to a view we do not know. */
bool wasMovedAway(napi_env env, napi_ref reference) {
  napi_value buffer = nullptr;
  bool isDetached = true;
  napi_get_reference_value(env, reference, &buffer);
  return buffer == nullptr || napi_is_detached_arraybuffer(env, buffer, &isDetached) != napi_ok || isDetached;
}

void detach(napi_env env, napi_ref reference) {
  napi_value buffer = nullptr;
  if (reference == nullptr) return;
  if (napi_get_reference_value(env, reference, &buffer) == napi_ok && buffer != nullptr) {
    napi_detach_arraybuffer(env, buffer);
  }
  napi_delete_reference(env, reference);
}

}  // namespace

void Environment::open(Napi::Env env) {
  auto* environment = new Environment(env);
  napi_set_instance_data(
      env, environment, [](napi_env, void* data, void*) { delete static_cast<Environment*>(data); }, nullptr);
  napi_add_env_cleanup_hook(
      env, [](void* data) { static_cast<Environment*>(data)->freeEverything(); }, environment);
}

Environment& Environment::of(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return *static_cast<Environment*>(data);
}

OwnedRing* Environment::findRing(napi_env env, napi_value value) const { return findOwned(env, value, rings_); }

Mapping* Environment::findMapping(napi_env env, napi_value value) const { return findOwned(env, value, mappings_); }

bool Environment::wasRing(napi_env env, napi_value value) { return hasTag(env, value, kRingTag); }

bool Environment::wasMapping(napi_env env, napi_value value) { return hasTag(env, value, kMappingTag); }

bool Environment::adopt(napi_env env, Napi::Object object, std::unique_ptr<OwnedRing> ring) {
  rings_.push_back(std::move(ring));
  return tie(env, object, rings_.back().get(), kRingTag);
}

bool Environment::adopt(napi_env env, Napi::Object object, std::unique_ptr<Mapping> mapping) {
  mappings_.push_back(std::move(mapping));
  return tie(env, object, mappings_.back().get(), kMappingTag);
}

bool Environment::release(napi_env env, Napi::Object object, OwnedRing* ring) {
  if (wasMovedAway(env, ring->memory) || wasMovedAway(env, ring->entries)) return false;
  napi_remove_wrap(env, object, nullptr);
  detach(env, ring->memory);
  detach(env, ring->entries);
  ring->ring.close();
  forget(rings_, ring);
  return true;
}

bool Environment::release(napi_env env, Napi::Object object, Mapping* mapping) {
  if (wasMovedAway(env, mapping->buffer)) return false;
  napi_remove_wrap(env, object, nullptr);
  detach(env, mapping->buffer);
  munmap(mapping->address, mapping->byteCount);
  forget(mappings_, mapping);
  return true;
}

bool Environment::ownsRingFd(int fd) const {
  return std::any_of(rings_.begin(), rings_.end(), [fd](const auto& owned) { return owned->ring.fd() == fd; });
}

// Rings first: closing one cancels what can be cancelled. What cannot (a kernel worker in the middle of a
// copy) may still write to an address it was given, so the addresses stay reserved without access for the
// rest of the process: the late copy then fails instead of landing in memory that belongs to someone else.
void Environment::freeEverything() {
  napi_handle_scope scope = nullptr;
  napi_open_handle_scope(env_, &scope);
  for (const auto& owned : rings_) {
    detach(env_, owned->memory);
    detach(env_, owned->entries);
    owned->ring.close();
  }
  const bool mayStillBeWritten = !rings_.empty();
  rings_.clear();
  for (const auto& mapping : mappings_) {
    detach(env_, mapping->buffer);
    if (mayStillBeWritten) {
      mmap(mapping->address, mapping->byteCount, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
           0);
    } else {
      munmap(mapping->address, mapping->byteCount);
    }
  }
  mappings_.clear();
  windows_.clearAll();
  if (scope != nullptr) napi_close_handle_scope(env_, scope);
}

}  // namespace holdfast
