#include "crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

namespace holdfast {

namespace {

constexpr uint32_t kPolynomial = 0x82F63B78;

using ByteTable = std::array<uint32_t, 256>;

/** tables[k][b]: what byte b contributes when k more bytes follow it. */
constexpr std::array<ByteTable, 8> makeByteTables() {
  std::array<ByteTable, 8> tables = {};
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    tables[0][byte] = crc;
  }
  for (uint32_t byte = 0; byte < 256; byte++) {
    for (size_t k = 1; k < 8; k++) {
      tables[k][byte] = (tables[k - 1][byte] >> 8) ^ tables[0][tables[k - 1][byte] & 0xff];
    }
  }
  return tables;
}

constexpr std::array<ByteTable, 8> kByteTables = makeByteTables();

uint64_t load64(const uint8_t* bytes) {
  uint64_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

#if defined(__x86_64__)

#define HOLDFAST_HAVE_INSTRUCTION 1
#define HOLDFAST_INSTRUCTION __attribute__((target("sse4.2")))
HOLDFAST_INSTRUCTION uint32_t step8(uint32_t crc, const uint8_t* at) {
  return static_cast<uint32_t>(_mm_crc32_u64(crc, load64(at)));
}
HOLDFAST_INSTRUCTION uint32_t step1(uint32_t crc, const uint8_t* at) { return _mm_crc32_u8(crc, *at); }
bool hasInstruction() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("sse4.2");
}

#elif defined(__ARM_FEATURE_CRC32)

#define HOLDFAST_HAVE_INSTRUCTION 1
#define HOLDFAST_INSTRUCTION
uint32_t step8(uint32_t crc, const uint8_t* at) { return __crc32cd(crc, load64(at)); }
uint32_t step1(uint32_t crc, const uint8_t* at) { return __crc32cb(crc, *at); }
bool hasInstruction() { return true; }

#endif

#ifdef HOLDFAST_HAVE_INSTRUCTION

// The instruction takes three cycles and a new one can start every cycle, so three stripes are worked on at
// once. Their sums are joined by tables that say what a sum becomes when a stripe of zeroes follows it.
template <size_t StripeBytes>
class StripeJoin {
 public:
  constexpr StripeJoin() {
    for (size_t k = 0; k < 4; k++) {
      std::array<uint32_t, 8> basis = {};
      for (size_t bit = 0; bit < 8; bit++) basis[bit] = afterZeroes(uint32_t{1} << (8 * k + bit));
      for (uint32_t byte = 0; byte < 256; byte++) {
        for (size_t bit = 0; bit < 8; bit++) tables_[k][byte] ^= (byte >> bit & 1) != 0 ? basis[bit] : 0;
      }
    }
  }

  uint32_t operator()(uint32_t crc) const {
    return tables_[0][crc & 0xff] ^ tables_[1][crc >> 8 & 0xff] ^ tables_[2][crc >> 16 & 0xff] ^ tables_[3][crc >> 24];
  }

 private:
  static constexpr uint32_t afterZeroes(uint32_t crc) {
    for (size_t i = 0; i < StripeBytes; i++) crc = (crc >> 8) ^ kByteTables[0][crc & 0xff];
    return crc;
  }

  std::array<ByteTable, 4> tables_ = {};
};

template <size_t StripeBytes>
constexpr StripeJoin<StripeBytes> kStripeJoin = {};

template <size_t StripeBytes>
HOLDFAST_INSTRUCTION uint32_t takeStripes(uint32_t crc, const uint8_t*& at, size_t& length) {
  static_assert(StripeBytes % 8 == 0);
  for (; length >= 3 * StripeBytes; at += 3 * StripeBytes, length -= 3 * StripeBytes) {
    uint32_t second = 0;
    uint32_t third = 0;
    for (size_t i = 0; i < StripeBytes; i += 8) {
      crc = step8(crc, at + i);
      second = step8(second, at + StripeBytes + i);
      third = step8(third, at + 2 * StripeBytes + i);
    }
    crc = kStripeJoin<StripeBytes>(kStripeJoin<StripeBytes>(crc) ^ second) ^ third;
  }
  return crc;
}

HOLDFAST_INSTRUCTION uint32_t crc32cByInstruction(uint32_t seed, const uint8_t* at, size_t length) {
  uint32_t crc = ~seed;
  // A 4 KiB block is one long round, four short ones and a short rest.
  crc = takeStripes<1024>(crc, at, length);
  crc = takeStripes<64>(crc, at, length);
  for (; length >= 8; at += 8, length -= 8) crc = step8(crc, at);
  for (; length > 0; at++, length--) crc = step1(crc, at);
  return ~crc;
}

#endif

}  // namespace

uint32_t crc32cPortable(uint32_t seed, const uint8_t* at, size_t length) {
  uint32_t crc = ~seed;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  for (; length >= 8; at += 8, length -= 8) {
    const uint64_t word = load64(at) ^ crc;
    crc = 0;
    for (size_t k = 0; k < 8; k++) crc ^= kByteTables[7 - k][word >> (8 * k) & 0xff];
  }
#endif
  for (; length > 0; at++, length--) crc = (crc >> 8) ^ kByteTables[0][(crc ^ *at) & 0xff];
  return ~crc;
}

uint32_t crc32c(uint32_t seed, const uint8_t* bytes, size_t length) {
#ifdef HOLDFAST_HAVE_INSTRUCTION
  static const bool kHasInstruction = hasInstruction();
  if (kHasInstruction) return crc32cByInstruction(seed, bytes, length);
#endif
  return crc32cPortable(seed, bytes, length);
}

}  // namespace holdfast
