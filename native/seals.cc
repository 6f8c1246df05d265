// Seals of frames between daemons: SipHash-2-4 with a 64-bit result (Aumasson and Bernstein, 2012) under a key of
// 16 bytes that only the two ends of one connection know, one for each direction (ADR 0006). Nothing allocates.
#include <node_api.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "exports.h"

namespace holdfast {

namespace {

static_assert(std::endian::native == std::endian::little, "words are read as they stand");

constexpr size_t kKeyBytes = 16;
constexpr size_t kSealBytes = 8;

uint64_t wordAt(const uint8_t* bytes) {
  uint64_t word = 0;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

struct SipState {
  uint64_t v0, v1, v2, v3;

  explicit SipState(const uint8_t* key)
      : v0(wordAt(key) ^ 0x736f6d6570736575), v1(wordAt(key + 8) ^ 0x646f72616e646f6d),
        v2(wordAt(key) ^ 0x6c7967656e657261), v3(wordAt(key + 8) ^ 0x7465646279746573) {}

  void round() {
    v0 += v1;
    v1 = std::rotl(v1, 13) ^ v0;
    v0 = std::rotl(v0, 32);
    v2 += v3;
    v3 = std::rotl(v3, 16) ^ v2;
    v0 += v3;
    v3 = std::rotl(v3, 21) ^ v0;
    v2 += v1;
    v1 = std::rotl(v1, 17) ^ v2;
    v2 = std::rotl(v2, 32);
  }

  void take(uint64_t word) {
    v3 ^= word;
    round();
    round();
    v0 ^= word;
  }

  uint64_t finish() {
    v2 ^= 0xff;
    for (int i = 0; i < 4; i++) round();
    return v0 ^ v1 ^ v2 ^ v3;
  }
};

uint64_t sipHash(const uint8_t* key, const uint8_t* bytes, size_t length) {
  SipState state(key);
  const size_t wholeBytes = length & ~size_t{7};
  for (size_t at = 0; at < wholeBytes; at += 8) state.take(wordAt(bytes + at));
  uint64_t last = static_cast<uint64_t>(length) << 56;
  for (size_t i = 0; i < (length & 7); i++) last |= static_cast<uint64_t>(bytes[wholeBytes + i]) << (8 * i);
  state.take(last);
  return state.finish();
}

struct Bytes {
  uint8_t* data = nullptr;
  size_t length = 0;
};

bool readBytes(napi_env env, napi_value value, Bytes* bytes) {
  bool isTypedArray = false;
  napi_typedarray_type type;
  void* data = nullptr;
  if (napi_is_typedarray(env, value, &isTypedArray) != napi_ok || !isTypedArray) return false;
  if (napi_get_typedarray_info(env, value, &type, &bytes->length, &data, nullptr, nullptr) != napi_ok) return false;
  bytes->data = static_cast<uint8_t*>(data);
  return type == napi_uint8_array;
}

bool isWhole(double value, double limit) { return value >= 0 && value <= limit && value == std::floor(value); }

/** (key, bytes, offset, length, …): the arguments that both functions begin with. */
struct SealArguments {
  Bytes key;
  Bytes bytes;
  double offset = 0;
  double length = 0;
  double count = 1;
};

/** Throws and answers false when the call is not of that form, or a piece with its seal is not inside `bytes`. */
bool readArguments(napi_env env, napi_callback_info info, size_t wanted, SealArguments* result) {
  napi_value arguments[5];
  size_t argumentCount = 5;
  napi_get_cb_info(env, info, &argumentCount, arguments, nullptr, nullptr);
  if (argumentCount != wanted || !readBytes(env, arguments[0], &result->key) ||
      !readBytes(env, arguments[1], &result->bytes) ||
      napi_get_value_double(env, arguments[2], &result->offset) != napi_ok ||
      napi_get_value_double(env, arguments[3], &result->length) != napi_ok ||
      (wanted == 5 && napi_get_value_double(env, arguments[4], &result->count) != napi_ok)) {
    napi_throw_type_error(env, nullptr, "a seal takes two Uint8Arrays (key, bytes) and numbers");
    return false;
  }
  const auto size = static_cast<double>(result->bytes.length);
  if (result->key.length != kKeyBytes || !isWhole(result->offset, size) || !isWhole(result->length, size) ||
      !isWhole(result->count, size) ||
      result->offset + (result->length + kSealBytes) * result->count > size) {
    napi_throw_range_error(env, nullptr, "a seal's key has 16 bytes, and pieces with their seals lie inside the bytes");
    return false;
  }
  return true;
}

napi_value seal(napi_env env, napi_callback_info info) {
  SealArguments arguments;
  if (!readArguments(env, info, 5, &arguments)) return nullptr;
  const auto length = static_cast<size_t>(arguments.length);
  const auto count = static_cast<size_t>(arguments.count);
  uint8_t* piece = arguments.bytes.data + static_cast<size_t>(arguments.offset);
  for (size_t i = 0; i < count; i++, piece += length + kSealBytes) {
    const uint64_t sum = sipHash(arguments.key.data, piece, length);
    std::memcpy(piece + length, &sum, sizeof(sum));
  }
  return nullptr;
}

napi_value isSealed(napi_env env, napi_callback_info info) {
  SealArguments arguments;
  if (!readArguments(env, info, 4, &arguments)) return nullptr;
  const auto length = static_cast<size_t>(arguments.length);
  const uint8_t* piece = arguments.bytes.data + static_cast<size_t>(arguments.offset);
  // One comparison of whole words: how long it takes says nothing about where they differ.
  const bool isRight = sipHash(arguments.key.data, piece, length) == wordAt(piece + length);
  napi_value result = nullptr;
  napi_get_boolean(env, isRight, &result);
  return result;
}

}  // namespace

void exportSeals(Napi::Env env, Napi::Object exports) {
  const std::pair<const char*, napi_callback> functions[] = {{"seal", seal}, {"isSealed", isSealed}};
  for (const auto& [name, function] : functions) {
    napi_value value = nullptr;
    napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &value);
    exports.Set(name, value);
  }
}

}  // namespace holdfast
