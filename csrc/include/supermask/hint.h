// What is remembered of a cut from one selection to the next, and the window of keys that it makes.
#pragma once

#include <cstdint>

#include "supermask/macros.h"
#include "supermask/select.h"

namespace supermask {

// The previous cut's key, 0 if there is none, and half the width of the window to try. Any content is valid
// and changes no mask.
struct Hint {
  int64_t key, spread;
};

// The key of a segment in which a score was not finite, from then on.
constexpr int64_t kNotFinite = INT64_MIN;

// Width of a window in keys: 2^14 of them span 0.1 to 0.2 % of a score.
constexpr int64_t kNarrowest = int64_t{1} << 14, kFirst = int64_t{1} << 17, kWidest = int64_t{1} << 20;

SUPERMASK_HD int64_t clamp(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

SUPERMASK_HD bool plausible(const Hint& hint) { return hint.key > 0 && hint.key < Keys<float>::infinity; }

// The keys around the expected cut; none without a plausible hint.
SUPERMASK_HD Window<uint32_t> window_of(const Hint& hint) {
  constexpr int64_t kInfinity = Keys<float>::infinity;
  if (!plausible(hint)) return {Keys<float>::infinity, Keys<float>::infinity};
  const int64_t spread = clamp(hint.spread, kNarrowest, kWidest);
  return {static_cast<uint32_t>(clamp(hint.key - spread, 0, kInfinity)),
          static_cast<uint32_t>(clamp(hint.key + spread, 0, kInfinity))};
}

// What to remember of a cut: where it is, and four times as far to either side as it came.
SUPERMASK_HD Hint follow(const Hint& last, uint32_t key, bool finite) {
  if (!finite || last.key == kNotFinite) return {kNotFinite, 0};
  if (!plausible(last)) return {key, kFirst};
  const int64_t drift = last.key > key ? last.key - key : key - last.key;
  return {key, clamp(4 * clamp(drift, 0, kWidest), kNarrowest, kWidest)};
}

}  // namespace supermask
