// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), as in iSCSI, ext4 and RFC 3720 appendix B.4.
#pragma once

#include <cstddef>
#include <cstdint>

namespace holdfast {

/** Continues `seed` (0 at the start) over the bytes, with the CPU's instruction where it has one. */
uint32_t crc32c(uint32_t seed, const uint8_t* bytes, size_t length);

/** The same by table, for CPUs without the instruction. */
uint32_t crc32cPortable(uint32_t seed, const uint8_t* bytes, size_t length);

}  // namespace holdfast
