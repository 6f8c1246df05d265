// crc32c for JavaScript, through the plain C interface: it is called per metadata block and per frame.
#include "crc32c.h"
#include "exports.h"

namespace holdfast {

namespace {

using Checksum = uint32_t (*)(uint32_t, const uint8_t*, size_t);

napi_status createSum(napi_env env, uint32_t sum, napi_value* result) { return napi_create_uint32(env, sum, result); }

/** Never a number on the heap, unlike half of the unsigned ones. */
napi_status createSignedSum(napi_env env, uint32_t sum, napi_value* result) {
  return napi_create_int32(env, static_cast<int32_t>(sum), result);
}

using Create = napi_status (*)(napi_env, uint32_t, napi_value*);

template <Checksum checksum, Create create>
napi_value checksumOf(napi_env env, napi_callback_info info) {
  napi_value arguments[4];
  size_t count = 4;
  napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
  napi_typedarray_type type;
  size_t byteLength = 0;
  void* bytes = nullptr;
  double offset, length, seed;
  if (count != 4 ||
      napi_get_typedarray_info(env, arguments[0], &type, &byteLength, &bytes, nullptr, nullptr) != napi_ok ||
      type != napi_uint8_array || napi_get_value_double(env, arguments[1], &offset) != napi_ok ||
      napi_get_value_double(env, arguments[2], &length) != napi_ok ||
      napi_get_value_double(env, arguments[3], &seed) != napi_ok) {
    napi_throw_type_error(env, nullptr, "crc32c takes a Uint8Array, an offset, a length and a seed");
    return nullptr;
  }
  const auto size = static_cast<double>(byteLength);
  if (!(offset >= 0 && length >= 0 && offset + length <= size && seed >= 0 && seed <= UINT32_MAX)) {
    napi_throw_range_error(env, nullptr, "crc32c: offset and length must lie inside the array, the seed be 32 bits");
    return nullptr;
  }
  const uint32_t sum = checksum(static_cast<uint32_t>(seed), static_cast<const uint8_t*>(bytes) + static_cast<size_t>(offset),
                                static_cast<size_t>(length));
  napi_value result = nullptr;
  create(env, sum, &result);
  return result;
}

template <Checksum checksum, Create create = createSum>
void add(Napi::Env env, Napi::Object exports, const char* name) {
  napi_value function = nullptr;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, checksumOf<checksum, create>, nullptr, &function);
  exports.Set(name, function);
}

}  // namespace

void exportChecksums(Napi::Env env, Napi::Object exports) {
  add<crc32c>(env, exports, "crc32c");
  add<crc32c, createSignedSum>(env, exports, "crc32cSigned");
  // For tests on machines that have the instruction; not part of the interface.
  add<crc32cPortable>(env, exports, "crc32cPortable");
}

}  // namespace holdfast
