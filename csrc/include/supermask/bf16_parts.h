// A float32 as an exact sum of three bfloat16, so that tensor cores for bfloat16 multiply it without loss by
// weights that bfloat16 holds exactly.
#pragma once

#include <cstdint>

#include "supermask/macros.h"

namespace supermask {

// The upper halves (bfloat16 patterns) of three floats whose sum is `value`. Cutting off the lower half of a
// float leaves 8 significant bits, and of the 24 that a float has, the rest keeps 16, then 8. Only bits below
// 2^-133, bfloat16's smallest step, are lost. Infinities and NaN stand in the first part.
SUPERMASK_HD void split_float(float value, uint16_t (&parts)[3]) {
  const bool finite = (bits_of(value) & 0x7F800000u) != 0x7F800000u;
  if (!finite) {
    const bool nan = (bits_of(value) & 0x007FFFFFu) != 0;
    parts[0] = static_cast<uint16_t>(nan ? 0x7FC0u : bits_of(value) >> 16);
    parts[1] = parts[2] = 0;
    return;
  }
  SUPERMASK_UNROLL
  for (int i = 0; i < 3; ++i) {
    const uint32_t head = bits_of(value) & 0xFFFF0000u;
    parts[i] = static_cast<uint16_t>(head >> 16);
    value -= float_of(head);
  }
}

}  // namespace supermask
