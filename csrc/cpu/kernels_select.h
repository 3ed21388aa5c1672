// Inner loops of the selection; see kernels.h. Included by kernels.cpp alone.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace supermask {
namespace {

// Append the flagged positions and their keys. Few are flagged, so eight flags are skipped at a time.
template <Ranking ranking, class Float, class Key>
inline int64_t compact(const uint8_t* flags, const Float* scores, int64_t count, int base, uint16_t* where,
                       Key* keys) {
  int64_t found = 0;
  for (int64_t i = 0; i < count; i += 8) {
    uint64_t eight;
    __builtin_memcpy(&eight, flags + i, sizeof eight);
    for (; eight; eight &= eight - 1) {
      const int64_t at = i + __builtin_ctzll(eight) / 8;
      where[found] = static_cast<uint16_t>(base + at);
      keys[found++] = ranked_key<ranking>(scores[at]);
    }
  }
  return found;
}

template <Ranking ranking, class Float, class Key = typename Keys<Float>::Key>
TileCounts classify(const Float* scores, int64_t count, Window<Key> window, bool* mask, int base,
                    uint16_t* where, Key* keys) {
  alignas(64) uint8_t flags[kTile + 8];
  Key largest = 0, above = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Key key = ranked_key<ranking>(scores[i]);
    const bool stays = key >= window.high;
    mask[i] = stays;
    flags[i] = (key >= window.low) & !stays;
    above += stays;
    largest = key > largest ? key : largest;
  }
  for (int i = 0; i < 8; ++i) flags[count + i] = 0;
  const int64_t candidates = compact<ranking>(flags, scores, count, base, where, keys);
  return {static_cast<int64_t>(above), candidates, largest < infinity_of<Float>(ranking)};
}

#if defined(__AVX512BW__)
// The same by hand, because no compiler sees a compaction in the loops above: 16 scores at a time, and the
// candidates among them stored without a branch. A store writes whole vectors, so the last 16 places of the
// room for candidates are filled one by one.
template <Ranking ranking>
TileCounts classify_avx512(const float* scores, int64_t count, Window<uint32_t> window, bool* mask, int base,
                           uint16_t* where, uint32_t* keys) {
  const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF), step = _mm512_set1_epi32(16);
  const __m512i low = _mm512_set1_epi32(static_cast<int>(window.low));
  const __m512i high = _mm512_set1_epi32(static_cast<int>(window.high));
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  __m512i position = _mm512_add_epi32(_mm512_set1_epi32(base), lanes), largest = _mm512_setzero_si512();
  int64_t above = 0, found = 0, i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m512i bits = _mm512_loadu_si512(scores + i);
    __m512i key = _mm512_and_si512(bits, magnitude);
    if constexpr (ranking == Ranking::raw) {  // see raw_key_of
      key = _mm512_mask_sub_epi32(key, _mm512_movepi32_mask(bits), _mm512_setzero_si512(), key);
      key = _mm512_add_epi32(key, _mm512_set1_epi32(0x7F7FFFFF));
    }
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
  const TileCounts rest = classify<ranking>(scores + i, count - i, window, mask + i, base + static_cast<int>(i),
                                   where + found, keys + found);
  return {above + rest.above, found + rest.candidates,
          rest.finite && _mm512_reduce_max_epu32(largest) < infinity_of<float>(ranking)};
}
#endif

#if defined(__AVX2__) && !defined(__AVX512BW__)
// 32 scores at a time, whose flags fill a vector of bytes; candidates are rare. Integers are compared as signed ones, so
// the highest bit of all is turned.
template <Ranking ranking>
TileCounts classify_avx2(const float* scores, int64_t count, Window<uint32_t> window, bool* mask, int base,
                         uint16_t* where, uint32_t* keys) {
  const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF), turned = _mm256_set1_epi32(INT32_MIN);
  const __m256i low = _mm256_xor_si256(_mm256_set1_epi32(static_cast<int>(window.low)), turned);
  const __m256i high = _mm256_xor_si256(_mm256_set1_epi32(static_cast<int>(window.high)), turned);
  const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // of what packing leaves
  __m256i largest = _mm256_setzero_si256();
  int64_t above = 0, found = 0, i = 0;
  for (; i + 32 <= count; i += 32) {
    __m256i below[4], inside[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(scores + i + 8 * j));
      __m256i key = _mm256_and_si256(bits, magnitude);
      if constexpr (ranking == Ranking::raw) {  // see raw_key_of
        key = _mm256_sign_epi32(key, _mm256_or_si256(bits, _mm256_set1_epi32(1)));
        key = _mm256_add_epi32(key, _mm256_set1_epi32(0x7F7FFFFF));
      }
      largest = _mm256_max_epu32(largest, key);
      key = _mm256_xor_si256(key, turned);
      below[j] = _mm256_cmpgt_epi32(high, key);
      inside[j] = _mm256_andnot_si256(_mm256_cmpgt_epi32(low, key), below[j]);
    }
    const __m256i first = _mm256_packs_epi32(below[0], below[1]), last = _mm256_packs_epi32(below[2], below[3]);
    const __m256i flags = _mm256_packs_epi16(first, last);
    const __m256i stays = _mm256_andnot_si256(_mm256_permutevar8x32_epi32(flags, in_order), _mm256_set1_epi8(1));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(mask + i), stays);
    above += 32 - __builtin_popcount(static_cast<uint32_t>(_mm256_movemask_epi8(flags)));
    const __m256i any =
        _mm256_or_si256(_mm256_or_si256(inside[0], inside[1]), _mm256_or_si256(inside[2], inside[3]));
    if (_mm256_testz_si256(any, any)) continue;
    for (int j = 0; j < 4; ++j)
      for (int lanes = _mm256_movemask_ps((__m256)inside[j]); lanes; lanes &= lanes - 1) {
        const int64_t at = i + 8 * j + __builtin_ctz(static_cast<unsigned>(lanes));
        where[found] = static_cast<uint16_t>(base + at);
        keys[found++] = ranked_key<ranking>(scores[at]);
      }
  }
  const TileCounts rest = classify<ranking>(scores + i, count - i, window, mask + i, base + static_cast<int>(i),
                                            where + found, keys + found);
  uint32_t eight[8], most = 0;
  __builtin_memcpy(eight, &largest, sizeof eight);
  for (const uint32_t key : eight) most = key > most ? key : most;
  return {above + rest.above, found + rest.candidates, rest.finite && most < infinity_of<float>(ranking)};
}
#endif

template <Ranking ranking, class Float, class Key = typename Keys<Float>::Key>
void histogram(const Float* scores, int64_t count, Window<Key> window, int shift, int64_t* bins) {
  const Key width = window.high - window.low;
  for (int64_t i = 0; i < count; ++i) {
    const Key distance = ranked_key<ranking>(scores[i]) - window.low;  // below the window it wraps round
    if (distance < width) ++bins[distance >> shift];
  }
}

// N:M where the groups lie in memory as they are: a row of m scores, m known to the compiler.
template <Ranking ranking, int m, class Float, class Key = typename Keys<Float>::Key>
bool n_of_row(const Float* __restrict scores, int64_t groups, int64_t keep, bool* __restrict mask) {
  Key largest = 0;
  for (int64_t group = 0; group < groups; ++group) {
    Key key[m], ahead[m] = {};  // ahead: how many of the group rank before this one
#pragma GCC unroll 8
    for (int i = 0; i < m; ++i) key[i] = ranked_key<ranking>(scores[m * group + i]);
#pragma GCC unroll 8
    for (int j = 1; j < m; ++j)
#pragma GCC unroll 8
      for (int i = 0; i < j; ++i) {
        const Key later = key[j] > key[i];  // of equal ones the first ranks before
        ahead[i] += later;
        ahead[j] += 1 - later;
      }
#pragma GCC unroll 8
    for (int i = 0; i < m; ++i) {
      mask[m * group + i] = ahead[i] < static_cast<Key>(keep);
      largest = key[i] > largest ? key[i] : largest;
    }
  }
  return largest < infinity_of<Float>(ranking);
}

// N:M in general: matrices of rows x inner scores whose columns are the groups. A tile holds whole matrices, or
// some columns of a large one. Scores d rows apart are compared over the whole tile at once, so that short
// rows, such as the nine places of a 3x3 kernel, cost no short loops.
template <Ranking ranking, class Float, class Key = typename Keys<Float>::Key>
bool n_of_m(const Float* scores, int64_t slabs, int64_t rows, int64_t inner, int64_t keep, bool* mask) {
  if (inner == 1 && rows == 4) return n_of_row<ranking, 4>(scores, slabs, keep, mask);
  alignas(64) Key key[kTile], row_of[kTile], ahead[kTile];
  Key largest = 0;
  const bool whole = rows * inner <= kTile;
  const int64_t slabs_at_once = whole ? kTile / (rows * inner) : 1;
  const int64_t columns_at_once = whole ? inner : kTile / rows;
  int64_t width = 0;  // of the matrices in the tile, for which row_of stands
  for (int64_t slab = 0; slab < slabs; slab += slabs_at_once)
    for (int64_t column = 0; column < inner; column += columns_at_once) {
      const int64_t now = slabs - slab < slabs_at_once ? slabs - slab : slabs_at_once;
      const int64_t columns = inner - column < columns_at_once ? inner - column : columns_at_once;
      const int64_t count = now * rows * columns, pieces = whole ? 1 : rows, length = count / pieces;
      if (columns != width) {
        width = columns;
        for (int64_t i = 0, row = 0; i + width <= kTile; row = row + 1 == rows ? 0 : row + 1)
          for (const int64_t end = i + width; i < end; ++i) row_of[i] = static_cast<Key>(row);
      }
      for (int64_t piece = 0; piece < pieces; ++piece) {
        const Float* from = scores + (slab * rows + piece) * inner + column;
        for (int64_t i = 0; i < length; ++i) key[piece * length + i] = ranked_key<ranking>(from[i]);
      }
      for (int64_t i = 0; i < count; ++i) {
        largest = key[i] > largest ? key[i] : largest;
        ahead[i] = 0;
      }
      for (int64_t distance = 1; distance < rows; ++distance) {
        const int64_t step = distance * width;
        const Key last = static_cast<Key>(rows - distance), first = static_cast<Key>(distance);
        for (int64_t i = 0; i < count - step; ++i)  // a later one ranks before only if it is larger …
          ahead[i] += (row_of[i] < last) & (key[i + step] > key[i]);
        for (int64_t i = step; i < count; ++i)  // … an earlier one also if it is equal
          ahead[i] += (row_of[i] >= first) & (key[i - step] >= key[i]);
      }
      for (int64_t piece = 0; piece < pieces; ++piece) {
        bool* to = mask + (slab * rows + piece) * inner + column;
        for (int64_t i = 0; i < length; ++i) to[i] = ahead[piece * length + i] < static_cast<Key>(keep);
      }
    }
  return largest < infinity_of<Float>(ranking);
}

}  // namespace
}  // namespace supermask
