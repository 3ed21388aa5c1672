// Exact selection by magnitude: the order of |score| as the order of integers, and the cut.
#pragma once

#include <cstdint>

#include "supermask/macros.h"

namespace supermask {

// |score| as an unsigned integer in the same order; zeros of both signs are equal, denormals are distinct,
// and every key from `infinity_key` on stands for an infinity or NaN.
SUPERMASK_HD uint32_t key_of(float score) { return bits_of(score) & 0x7FFFFFFFu; }

SUPERMASK_HD uint64_t key_of(double score) {
  uint64_t bits;
  __builtin_memcpy(&bits, &score, sizeof bits);
  return bits & 0x7FFFFFFFFFFFFFFFu;
}

template <class Float>
struct Keys;

template <>
struct Keys<float> {
  using Key = uint32_t;
  static constexpr Key infinity = 0x7F800000u;
  static constexpr int mantissa_bits = 23;
};

template <>
struct Keys<double> {
  using Key = uint64_t;
  static constexpr Key infinity = 0x7FF0000000000000u;
  static constexpr int mantissa_bits = 52;
};

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

}  // namespace supermask
