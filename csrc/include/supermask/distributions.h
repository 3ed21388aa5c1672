// Unit draws from random words, bit for bit those of the reference in references.py: float32 additions and
// multiplications, one correctly rounded square root, and polynomials. No fused multiply-add and no call
// into a mathematics library decides a bit.
#pragma once

#include <cstdint>

#include "supermask/macros.h"

namespace supermask {

// +1 or -1 by bit `position` of a word.
SUPERMASK_HD float unit_sign(uint32_t word, int position) { return (word >> position) & 1u ? -1.0f : 1.0f; }

// Uniform on (-1, 1), from the upper 24 bits.
SUPERMASK_HD float unit_uniform(uint32_t word) {
  const int32_t odd = static_cast<int32_t>(word >> 8) * 2 + 1 - (1 << 24);
  return static_cast<float>(odd) * 0x1p-24f;
}

SUPERMASK_HD float square_root(float value) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(value);
#else
  return __builtin_sqrtf(value);
#endif
}

// The products and sums of the polynomials: rounded one by one, whatever the compiler's defaults.
SUPERMASK_HD float times(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

SUPERMASK_HD float plus(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

// ln(1 + t) / t for t in [1/sqrt 2 - 1, sqrt 2 - 1]; the coefficients are those of LOG_COEFFICIENTS.
SUPERMASK_HD float log_polynomial(float t) {
  float value = 0.08959803730249405f;
  value = plus(times(value, t), -0.14482136070728302f);
  value = plus(times(value, t), 0.14917394518852234f);
  value = plus(times(value, t), -0.1654374599456787f);
  value = plus(times(value, t), 0.19958415627479553f);
  value = plus(times(value, t), -0.25002944469451904f);
  value = plus(times(value, t), 0.3333415985107422f);
  value = plus(times(value, t), -0.4999997913837433f);
  return plus(times(value, t), 1.0f);
}

// sin(pi/2 f) / f and cos(pi/2 f) in z = f^2 for |f| <= 1/2: SIN_COEFFICIENTS and COS_COEFFICIENTS.
SUPERMASK_HD float sine_polynomial(float z) {
  float value = -0.004602177068591118f;
  value = plus(times(value, z), 0.07968022674322128f);
  value = plus(times(value, z), -0.6459634900093079f);
  return plus(times(value, z), 1.5707963705062866f);
}

SUPERMASK_HD float cosine_polynomial(float z) {
  float value = 0.0009036316769197583f;
  value = plus(times(value, z), -0.02086007222533226f);
  value = plus(times(value, z), 0.25366920232772827f);
  value = plus(times(value, z), -1.2337005138397217f);
  return plus(times(value, z), 1.0f);
}

// sqrt(-2 ln u) for u = (word | 1) / 2^32.
SUPERMASK_HD float normal_radius(uint32_t word) {
  const uint32_t bits = bits_of(static_cast<float>(word | 1u));
  float mantissa = float_of((bits & 0x7FFFFFu) | 0x3F800000u);
  const bool above = mantissa > 1.4142135381698608f;
  const int32_t exponent = static_cast<int32_t>(bits >> 23) - 127 + (above ? 1 : 0);
  mantissa = above ? times(mantissa, 0.5f) : mantissa;
  const float t = plus(mantissa, -1.0f);
  const float log = plus(times(static_cast<float>(exponent - 32), 0.6931471824645996f),
                         times(t, log_polynomial(t)));
  const float square = times(log, -2.0f);
  return square_root(square > 0.0f ? square : 0.0f);
}

struct Point {
  float x, y;
};

// Cosine and sine of a uniform angle: the top two bits turn by quarters, the others within one.
SUPERMASK_HD Point unit_circle(uint32_t word) {
  const uint32_t quarter = word >> 30;
  const int32_t odd = static_cast<int32_t>(word & 0x3FFFFFFFu) * 2 + 1 - (1 << 30);
  const float f = times(static_cast<float>(odd), 0x1p-31f);
  const float z = times(f, f);
  const float sine = times(f, sine_polynomial(z)), cosine = cosine_polynomial(z);
  const float x = quarter & 1u ? -sine : cosine, y = quarter & 1u ? cosine : sine;
  return {quarter >= 2u ? -x : x, quarter >= 2u ? -y : y};
}

// Two standard normal values from two words (Box-Muller).
SUPERMASK_HD Point unit_normals(uint32_t radius_word, uint32_t angle_word) {
  const float radius = normal_radius(radius_word);
  const Point point = unit_circle(angle_word);
  return {times(radius, point.x), times(radius, point.y)};
}

}  // namespace supermask
