// Philox4x32-10: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011).
#pragma once

#include <cstdint>

#include "supermask/macros.h"

namespace supermask {

struct PhiloxBlock {
  uint32_t word[4];
};

SUPERMASK_HD void philox_round(PhiloxBlock& c, uint32_t k0, uint32_t k1) {
  const uint64_t product0 = uint64_t{0xD2511F53u} * c.word[0];
  const uint64_t product1 = uint64_t{0xCD9E8D57u} * c.word[2];
  c = {{static_cast<uint32_t>(product1 >> 32) ^ c.word[1] ^ k0, static_cast<uint32_t>(product1),
        static_cast<uint32_t>(product0 >> 32) ^ c.word[3] ^ k1, static_cast<uint32_t>(product0)}};
}

// The four words at 128-bit counter `index`, under `key`.
SUPERMASK_HD PhiloxBlock philox(uint64_t key, uint64_t index) {
  PhiloxBlock c = {{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0u, 0u}};
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  SUPERMASK_UNROLL
  for (int round = 0; round < 10; ++round) {
    philox_round(c, k0, k1);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

}  // namespace supermask
