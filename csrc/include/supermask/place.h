// The order in which scores are kept, as the order of integers, and the radix search for the last one that
// is.
#pragma once

#include <cstdint>

#include "supermask/macros.h"
#include "supermask/select.h"

namespace supermask {

// A place has the key of a score above the complement of its index: larger scores first, and of equal ones
// the lower index. No two places of a segment are equal, so a cut between them keeps exactly as many as it
// should.
template <class Float>
struct Places;

template <>
struct Places<float> {
  using Place = uint64_t;
  static constexpr int bits = 64;
};

template <>
struct Places<double> {
  __extension__ using Place = unsigned __int128;
  static constexpr int bits = 96;
};

constexpr int64_t kLargestSegment = UINT32_MAX;  // scores that are ranked together
constexpr uint32_t kLastIndex = UINT32_MAX - 1;  // no place has all bits set: as a cut that keeps none

SUPERMASK_HD uint64_t place_of(uint32_t key, uint32_t index) {
  return uint64_t{key} << 32 | (kLastIndex - index);
}

SUPERMASK_HD Places<double>::Place place_of(uint64_t key, uint32_t index) {
  return static_cast<Places<double>::Place>(key) << 32 | (kLastIndex - index);
}

SUPERMASK_HD uint32_t key_of_place(uint64_t place) { return static_cast<uint32_t>(place >> 32); }
SUPERMASK_HD uint32_t index_of_place(uint64_t place) { return kLastIndex - static_cast<uint32_t>(place); }

constexpr int kBins = 2048;

// A search for the place that has `rank` - 1 others above it, from the highest digit down. The places that
// agree with `prefix` above the lowest `rest` bits are still in question; a digit's histogram over them says
// which digit comes next. Digits end where the key does, so ties alone cost the passes over the index.
template <class Float>
struct RadixSearch {
  using Place = typename Places<Float>::Place;

  Place prefix;
  Place cut;  // once done: places from here on are kept
  int64_t rank;
  int rest;
  bool done;
};

template <class Float>
SUPERMASK_HD RadixSearch<Float> start_search(int64_t rank, int64_t numel) {
  using Place = typename Places<Float>::Place;
  const bool none = rank == 0, all = rank == numel;
  return {0, none ? ~Place{0} : Place{0}, rank, Places<Float>::bits, none || all};
}

// The same where all places have keys in the window: the digits that those share are known, and counting them would
// send every place to one bin.
template <class Float>
SUPERMASK_HD RadixSearch<Float> start_search(int64_t rank, int64_t numel, Window<typename Keys<Float>::Key> window) {
  RadixSearch<Float> search = start_search<Float>(rank, numel);
  if (search.done) return search;
  int differing = 0;
  for (auto rest = window.low ^ (window.high - 1); rest; rest >>= 1) ++differing;
  search.rest = 32 + differing;
  if (search.rest < Places<Float>::bits) search.prefix = window.low >> differing;
  return search;
}

// Bits of the next digit: at most 11, and shared out evenly between the passes over the key or over the
// index.
SUPERMASK_HD int digit_bits(int rest) {
  const int part = rest > 32 ? rest - 32 : rest, passes = (part + 10) / 11;
  return (part + passes - 1) / passes;
}

// The bin of a place, or -1 for one that is no longer in question.
template <class Float>
SUPERMASK_HD int bin_of(const RadixSearch<Float>& search, typename Places<Float>::Place place) {
  // Before the first digit all are in question; a shift by all bits has no meaning.
  if (search.rest < Places<Float>::bits && place >> search.rest != search.prefix) return -1;
  const int bits = digit_bits(search.rest);
  return static_cast<int>(place >> (search.rest - bits)) & ((1 << bits) - 1);
}

// Goes on within `bin`, which holds `inside` places and has `above` in the bins beyond it.
template <class Float>
SUPERMASK_HD void enter_bin(RadixSearch<Float>& search, int bin, int64_t above, int64_t inside) {
  const int bits = digit_bits(search.rest);
  search.prefix = search.prefix << bits | static_cast<typename Places<Float>::Place>(bin);
  search.rest -= bits;
  search.rank -= above;
  // A bin that is kept whole ends the search; not before the key is complete, for the sake of the next hint.
  search.done = search.rank == inside && search.rest <= 32;
  search.cut = search.prefix << search.rest;
}

// One digit's histogram in a group's shared memory.
struct Histogram {
  static constexpr int kSums = 64, kRun = kBins / kSums;

  unsigned bins[kBins];
  unsigned sums[kSums];
};

template <class Group>
SUPERMASK_HD void clear(const Group& group, Histogram& histogram) {
  group.each_thread([&](int thread) {
    for (int bin = thread; bin < kBins; bin += group.threads) histogram.bins[bin] = 0;
  });
}

// Takes the search one digit on. `search` is shared by the group.
template <class Group, class Float>
SUPERMASK_HD void narrow(const Group& group, Histogram& histogram, RadixSearch<Float>& search) {
  constexpr int kRun = Histogram::kRun;
  group.each_thread([&](int thread) {
    for (int run = thread; run < Histogram::kSums; run += group.threads) {
      unsigned sum = 0;
      // Every thread begins elsewhere in its run: they would all meet in one memory bank.
      for (int i = 0; i < kRun; ++i) sum += histogram.bins[run * kRun + (i + run) % kRun];
      histogram.sums[run] = sum;
    }
  });
  group.each_thread([&](int thread) {
    if (thread != 0) return;
    int64_t above = 0;
    int run = Histogram::kSums - 1;
    while (search.rank > above + histogram.sums[run]) above += histogram.sums[run--];
    int bin = run * kRun + kRun - 1;
    while (search.rank > above + histogram.bins[bin]) above += histogram.bins[bin--];
    enter_bin(search, bin, above, histogram.bins[bin]);
  });
}

}  // namespace supermask
