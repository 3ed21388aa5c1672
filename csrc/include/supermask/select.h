// Exact selection: the order of |score|, or of the scores themselves, as the order of integers, and the cut.
#pragma once

#include <cstdint>

#include "supermask/macros.h"

namespace supermask {

constexpr int64_t kLargestGroup = 2048;  // m of n:m; supermask/ops.py has the same

// |score| as an unsigned integer in the same order; zeros of both signs are equal, denormals are distinct,
// and every key from `infinity_key` on stands for an infinity or NaN.
SUPERMASK_HD uint32_t key_of(float score) { return bits_of(score) & 0x7FFFFFFFu; }

SUPERMASK_HD uint64_t key_of(double score) {
  uint64_t bits;
  __builtin_memcpy(&bits, &score, sizeof bits);
  return bits & 0x7FFFFFFFFFFFFFFFu;
}

// The score itself as an unsigned integer in the same order: sign and magnitude become one signed number, moved
// up until the least finite score is 0. Zeros of both signs are equal; every key from `raw_infinity` on
// stands for NaN or an infinity of either sign (that of minus infinity wraps round to the largest).
SUPERMASK_HD uint32_t raw_key_of(float score) {
  const uint32_t magnitude = key_of(score);
  return (bits_of(score) >> 31 ? 0u - magnitude : magnitude) + 0x7F7FFFFFu;
}

SUPERMASK_HD uint64_t raw_key_of(double score) {
  uint64_t bits;
  __builtin_memcpy(&bits, &score, sizeof bits);
  const uint64_t magnitude = key_of(score);
  return (bits >> 63 ? uint64_t{0} - magnitude : magnitude) + 0x7FEFFFFFFFFFFFFFu;
}

template <class Float>
struct Keys;

template <>
struct Keys<float> {
  using Key = uint32_t;
  static constexpr Key infinity = 0x7F800000u, raw_infinity = 0xFEFFFFFFu;
  static constexpr int mantissa_bits = 23;
};

template <>
struct Keys<double> {
  using Key = uint64_t;
  static constexpr Key infinity = 0x7FF0000000000000u, raw_infinity = 0xFFDFFFFFFFFFFFFFu;
  static constexpr int mantissa_bits = 52;
};

// What scores are ranked by: |s| or s.
enum class Ranking { magnitude, raw };

template <Ranking ranking, class Float>
SUPERMASK_HD typename Keys<Float>::Key ranked_key(Float score) {
  return ranking == Ranking::raw ? raw_key_of(score) : key_of(score);
}

template <class Float>
SUPERMASK_HD typename Keys<Float>::Key infinity_of(Ranking ranking) {
  return ranking == Ranking::raw ? Keys<Float>::raw_infinity : Keys<Float>::infinity;
}

// Keys in [low, high) are candidates: whether they stay is settled once the cut is known. Those from `high`
// on stay, those below `low` do not.
template <class Key>
struct Window {
  Key low, high;
};

// The last place that is kept: larger keys stay, and of equal ones those up to `position`.
template <class Key>
struct Cut {
  Key key;
  int64_t position;
};

template <class Key>
SUPERMASK_HD bool keeps(const Cut<Key>& cut, Key key, int64_t position) {
  return key > cut.key || (key == cut.key && position <= cut.position);
}

// How many of a group of `size` scores N:M keeps. A whole group has m; a shorter one, at the end of a row, keeps
// its share of n rounded up, so that it never dies and, filled up with zeros, still has n of m at most.
SUPERMASK_HD int64_t kept_of_group(int64_t size, int64_t n, int64_t m) { return (n * size + m - 1) / m; }

}  // namespace supermask
