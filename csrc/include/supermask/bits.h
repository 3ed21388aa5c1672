// Masks as packed bits: row-major, least significant bit first.
#pragma once

#include <cstdint>

#include "supermask/macros.h"

namespace supermask {

// Eight bytes, each 0 or 1, as the bits of one byte: the product moves byte i to bit 56 + i.
SUPERMASK_HD uint8_t pack_byte(const uint8_t* flags) {
  uint64_t bytes = 0;
  for (int i = 0; i < 8; ++i) bytes |= static_cast<uint64_t>(flags[i]) << (8 * i);
  return static_cast<uint8_t>((bytes * 0x0102040810204080u) >> 56);
}

SUPERMASK_HD void unpack_byte(uint8_t packed, uint8_t* flags) {
  for (int i = 0; i < 8; ++i) flags[i] = (packed >> i) & 1u;
}

}  // namespace supermask
