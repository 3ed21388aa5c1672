// Inner loops of the search step, conversions and packing; see kernels.h. Included by kernels.cpp alone.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels.h"
#include "kernels_packed.h"
#include "supermask/bits.h"

namespace supermask {
namespace {

// --- conversion

template <class Float, class From>
inline void load_as(const void* values, int64_t count, Float* out) {
  const From* source = static_cast<const From*>(values);
  for (int64_t i = 0; i < count; ++i) out[i] = to_float(source[i]);
}

template <class Float>
void load(Dtype from, const void* values, int64_t count, Float* out) {
  switch (from) {
    case Dtype::float32: return load_as<Float, float>(values, count, out);
    case Dtype::bfloat16: return load_as<Float, BFloat16>(values, count, out);
    case Dtype::float16: return load_as<Float, Float16>(values, count, out);
    case Dtype::float64: break;
  }
  const double* source = static_cast<const double*>(values);
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<Float>(source[i]);
}

template <class Float, class To>
inline void store_as(const Float* values, int64_t count, void* out) {
  To* target = static_cast<To*>(out);
  for (int64_t i = 0; i < count; ++i) from_float(static_cast<float>(values[i]), target[i]);
}

template <class Float>
void store(Dtype to, const Float* values, int64_t count, void* out) {
  switch (to) {
    case Dtype::float32: return store_as<Float, float>(values, count, out);
    case Dtype::bfloat16: return store_as<Float, BFloat16>(values, count, out);
    case Dtype::float16: return store_as<Float, Float16>(values, count, out);
    case Dtype::float64: break;
  }
  double* target = static_cast<double*>(out);
  for (int64_t i = 0; i < count; ++i) target[i] = values[i];
}

// --- the step

template <class Float>
void straight_through_tile(const Float* grad, const Float* weight, const Float* score, int64_t count,
                           Float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = straight_through(grad[i], weight[i], score[i]);
}

template <class Float>
void masked_weights(const Float* weight, const bool* mask, int64_t count, Float* out) {
  // As bytes: the compiler vectorizes no loop over bools.
  const uint8_t* kept = reinterpret_cast<const uint8_t*>(mask);
  for (int64_t i = 0; i < count; ++i) out[i] = masked_weight(weight[i], kept[i]);
}

double sum_of_squares(const float* values, int64_t count) {
  constexpr int64_t kSums = 16;
  double sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums)
    for (int64_t lane = 0; lane < kSums; ++lane) {
      const double value = values[i + lane];
      sums[lane] += value * value;
    }
  for (int64_t lane = 0; i < count; ++i, ++lane) sums[lane] += double(values[i]) * values[i];
  for (int64_t width = kSums / 2; width; width /= 2)
    for (int64_t lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
  return sums[0];
}

void scale(const float* values, float factor, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = values[i] * factor;
}

void clear_where(const bool* where, int64_t count, float* __restrict values) {
  const uint8_t* flags = reinterpret_cast<const uint8_t*>(where);
  for (int64_t i = 0; i < count; ++i) values[i] = flags[i] ? 0.0f : values[i];
}

#if !defined(__AVX2__) || defined(__AVX512F__)
// Whether 16 floats differ from those of `out` in any bit.
inline bool any_differs(const float* values, const float* out) {
#if defined(__AVX512F__)
  return _mm512_cmpneq_epi32_mask(_mm512_loadu_si512(values), _mm512_loadu_si512(out));
#else
  Words32 differ = {};
  for (int part = 0; part < kParts; ++part)
    differ |= load_vector<Words32>(values + kLaneCount * part) ^ load_vector<Words32>(out + kLaneCount * part);
  uint64_t halves[2];
  __builtin_memcpy(halves, &differ, sizeof halves);
  return halves[0] | halves[1];
#endif
}
#endif

// Most weights stay what they are in a step: what is not stored need not go back to memory. Those of the next tile are
// asked for, which nothing else touches before.
void refresh_masked(const float* weight, const bool* mask, int64_t count, float* out) {
  int64_t i = 0;
#if defined(__AVX2__) && !defined(__AVX512F__)
  // By hand: of loops over 16 the compiler makes five times as much.
  for (; i + 16 <= count; i += 16) {
    __builtin_prefetch(out + i + kTile, 0, 2);
    for (int64_t j = i; j < i + 16; j += 8) {
      const __m256i kept = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(mask + j)));
      const __m256 masked = _mm256_mul_ps(_mm256_loadu_ps(weight + j), _mm256_cvtepi32_ps(kept));
      const __m256 fresh = _mm256_add_ps(masked, _mm256_setzero_ps());  // see masked_weight
      const __m256i differ = (__m256i)_mm256_xor_ps(fresh, _mm256_loadu_ps(out + j));
      if (!_mm256_testz_si256(differ, differ)) _mm256_storeu_ps(out + j, fresh);
    }
  }
#else
  for (; i + 16 <= count; i += 16) {
    __builtin_prefetch(out + i + kTile, 0, 2);
    float fresh[16];
    masked_weights(weight + i, mask + i, 16, fresh);
    if (any_differs(fresh, out + i)) __builtin_memcpy(out + i, fresh, sizeof fresh);
  }
#endif
  masked_weights(weight + i, mask + i, count - i, out + i);
}

// The first two lines of each page of the tile after this one. From these the processor foresees the others, but no page
// from another.
inline void ask_for_next(const float* tile) {
  constexpr int64_t kPage = 1024, kLine = 16;
  for (int64_t page = kTile; page < 2 * kTile; page += kPage)
    for (int64_t at = page; at < page + 2 * kLine; at += kLine) __builtin_prefetch(tile + at, 0, 2);
}

bool all_finite(const float* values, int64_t count) {
  uint32_t largest = 0;  // the bits of magnitudes are in the order of the magnitudes, infinity and NaN last
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, values + i, sizeof bits);
    bits &= 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  return largest < 0x7f800000u;
}

void signed_weights(const float* __restrict weight, const float* __restrict score, int64_t count,
                    float* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = signed_weight(weight[i], score[i]);
}

template <bool kSigned, bool kMomentum, bool kNesterov, bool kDecay>
void sgd_tile(const Sgd& rule, const float* __restrict grad, const float* __restrict weight, int64_t count,
              float* __restrict score, float* __restrict velocity) {
  ask_for_next(grad);
  ask_for_next(weight);
  ask_for_next(score);
  if (kMomentum) ask_for_next(velocity);
  float unused = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float gradient = kSigned ? grad[i] * weight[i] : straight_through(grad[i], weight[i], score[i]);
    sgd_step<kMomentum, kNesterov, kDecay>(rule, gradient, score[i], kMomentum ? velocity[i] : unused);
  }
}

// The options are decided outside the loop: torch skips an operation that an option turns off, and so must
// we, because even adding 0 can change the sign of a zero.
template <bool kSigned, bool kDecay>
void sgd_with(const Sgd& rule, const float* grad, const float* weight, int64_t count, float* score,
              float* velocity) {
  if (!velocity) return sgd_tile<kSigned, false, false, kDecay>(rule, grad, weight, count, score, velocity);
  if (rule.nesterov) return sgd_tile<kSigned, true, true, kDecay>(rule, grad, weight, count, score, velocity);
  return sgd_tile<kSigned, true, false, kDecay>(rule, grad, weight, count, score, velocity);
}

template <bool kSigned>
void move_scores(const Sgd& rule, const float* grad, const float* weight, int64_t count, float* score,
                 float* velocity) {
  if (rule.weight_decay != 0) return sgd_with<kSigned, true>(rule, grad, weight, count, score, velocity);
  return sgd_with<kSigned, false>(rule, grad, weight, count, score, velocity);
}

// --- packing

void pack(const bool* mask, int64_t count, uint8_t* packed) {
  const uint8_t* flags = reinterpret_cast<const uint8_t*>(mask);
  for (int64_t i = 0; i < count; ++i) packed[i] = pack_byte(flags + 8 * i);
}

void unpack(const uint8_t* packed, int64_t count, bool* mask) {
  uint8_t* flags = reinterpret_cast<uint8_t*>(mask);
  for (int64_t i = 0; i < count; ++i) unpack_byte(packed[i], flags + 8 * i);
}

}  // namespace
}  // namespace supermask
