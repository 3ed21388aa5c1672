// Inner loops of the selection; see kernels.h. Included by kernels.cpp alone.
#pragma once

#if defined(__AVX512BW__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace supermask {
namespace {

// Append the flagged positions and their keys. Few are flagged, so eight flags are skipped at a time.
template <class Float, class Key>
inline int64_t compact(const uint8_t* flags, const Float* scores, int64_t count, int base, uint16_t* where,
                       Key* keys) {
  int64_t found = 0;
  for (int64_t i = 0; i < count; i += 8) {
    uint64_t eight;
    __builtin_memcpy(&eight, flags + i, sizeof eight);
    for (; eight; eight &= eight - 1) {
      const int64_t at = i + __builtin_ctzll(eight) / 8;
      where[found] = static_cast<uint16_t>(base + at);
      keys[found++] = key_of(scores[at]);
    }
  }
  return found;
}

template <class Float, class Key>
TileCounts classify(const Float* scores, int64_t count, Window<Key> window, bool* mask, int base,
                    uint16_t* where, Key* keys) {
  alignas(64) uint8_t flags[kTile + 8];
  Key largest = 0, above = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Key key = key_of(scores[i]);
    const bool stays = key >= window.high;
    mask[i] = stays;
    flags[i] = (key >= window.low) & !stays;
    above += stays;
    largest = key > largest ? key : largest;
  }
  for (int i = 0; i < 8; ++i) flags[count + i] = 0;
  const int64_t candidates = compact(flags, scores, count, base, where, keys);
  return {static_cast<int64_t>(above), candidates, largest < Keys<Float>::infinity};
}

#if defined(__AVX512BW__)
// The same by hand, because no compiler sees a compaction in the loops above: 16 scores at a time, and the
// candidates among them stored without a branch. A store writes whole vectors, so the last 16 places of the
// room for candidates are filled one by one.
TileCounts classify_avx512(const float* scores, int64_t count, Window<uint32_t> window, bool* mask, int base,
                           uint16_t* where, uint32_t* keys) {
  const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF), step = _mm512_set1_epi32(16);
  const __m512i low = _mm512_set1_epi32(static_cast<int>(window.low));
  const __m512i high = _mm512_set1_epi32(static_cast<int>(window.high));
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  __m512i position = _mm512_add_epi32(_mm512_set1_epi32(base), lanes), largest = _mm512_setzero_si512();
  int64_t above = 0, found = 0, i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m512i key = _mm512_and_si512(_mm512_loadu_si512(scores + i), magnitude);
    const __mmask16 stays = _mm512_cmpge_epu32_mask(key, high);
    const __mmask16 inside = _mm512_mask_cmpge_epu32_mask(static_cast<__mmask16>(~stays), key, low);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(mask + i), _mm_maskz_set1_epi8(stays, 1));
    largest = _mm512_max_epu32(largest, key);
    above += __builtin_popcount(stays);
    if (inside) {
      // found <= i and i + 16 <= count: the whole vectors stay within the room for `count` entries.
      _mm512_storeu_si512(keys + found, _mm512_maskz_compress_epi32(inside, key));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(where + found),
                          _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(inside, position)));
      found += __builtin_popcount(inside);
    }
    position = _mm512_add_epi32(position, step);
  }
  const TileCounts rest = classify(scores + i, count - i, window, mask + i, base + static_cast<int>(i),
                                   where + found, keys + found);
  return {above + rest.above, found + rest.candidates,
          rest.finite && _mm512_reduce_max_epu32(largest) < Keys<float>::infinity};
}
#endif

template <class Float, class Key>
void histogram(const Float* scores, int64_t count, Window<Key> window, int shift, int64_t* bins) {
  const Key width = window.high - window.low;
  for (int64_t i = 0; i < count; ++i) {
    const Key distance = key_of(scores[i]) - window.low;  // wraps to a large value below the window
    if (distance < width) ++bins[distance >> shift];
  }
}

}  // namespace
}  // namespace supermask
