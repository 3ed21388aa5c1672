// The floating-point formats that tensors come in, and their conversion to and from float32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "supermask/macros.h"

namespace supermask {

enum class Dtype : int { float32, float64, bfloat16, float16 };

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

SUPERMASK_HD std::size_t size_of(Dtype dtype) {
  return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
}

SUPERMASK_HD float to_float(float value) { return value; }
SUPERMASK_HD float to_float(double value) { return static_cast<float>(value); }
SUPERMASK_HD float to_float(BFloat16 value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }

SUPERMASK_HD float to_float(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16, rest = value.bits & 0x7FFFu;
  // A denormal counts steps of 2^-24; anything else needs its exponent re-biased by 112.
  const float magnitude =
      rest < 0x400u ? static_cast<float>(rest) * 0x1p-24f : float_of((rest << 13) + (112u << 23));
  const uint32_t special = rest >= 0x7C00u ? 0x7F800000u | (rest << 13) : bits_of(magnitude);
  return float_of(sign | special);
}

// Rounded to the nearest, ties to even, as torch does it.
SUPERMASK_HD void from_float(float value, float& out) { out = value; }
SUPERMASK_HD void from_float(float value, double& out) { out = value; }

SUPERMASK_HD void from_float(float value, BFloat16& out) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  out.bits = static_cast<uint16_t>(nan ? 0x7FC0u : rounded);
}

SUPERMASK_HD void from_float(float value, Float16& out) {
  const uint32_t bits = bits_of(value), magnitude = bits & 0x7FFFFFFFu;
  // Normal results: re-bias the exponent by -112 and round off 13 bits; a carry moves to the next binade, or
  // from the last one to infinity, by itself.
  const uint32_t normal = (magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  // Denormal results: adding 1/2 aligns the value with float16's smallest step, and the sum rounds it.
  const uint32_t denormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  uint32_t result = magnitude < (113u << 23) ? denormal : normal;
  result = magnitude >= (143u << 23) ? 0x7C00u : result;
  result = magnitude > 0x7F800000u ? 0x7E00u | ((magnitude >> 13) & 0x3FFu) : result;
  out.bits = static_cast<uint16_t>(result | ((bits >> 16) & 0x8000u));
}

}  // namespace supermask
