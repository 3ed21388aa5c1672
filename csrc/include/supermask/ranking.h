// Selection without a hint, by |score| or by score, within tensors or over several ranked together: a radix
// search in which every digit is a pass over all scores, side by side in many groups. The state of a segment,
// which is what is ranked together, lies in global memory.
#pragma once

#include <cstdint>

#include "supermask/array.h"
#include "supermask/group.h"
#include "supermask/place.h"

namespace supermask {

constexpr int kStretch = 1 << 14;  // elements that a group takes at a time

template <class Float>
struct RankedSegment {
  RadixSearch<Float> search;
  unsigned infinite;  // nonzero once a score that is not finite was met
  unsigned bins[kBins];
};

// The passes that find every cut: those over the key, and those over the index, which do nothing without
// ties.
template <class Float>
constexpr int kPasses = 0;
template <>
inline constexpr int kPasses<float> = 6;
template <>
inline constexpr int kPasses<double> = 9;

template <class Float>
SUPERMASK_HD typename Keys<Float>::Key key_of(Float score, Ranking ranking) {
  return ranking == Ranking::raw ? raw_key_of(score) : key_of(score);
}

template <class Group, class Float>
SUPERMASK_HD void start_ranking(const Group& group, RankedSegment<Float>& segment, int64_t keep,
                                int64_t numel) {
  group.each_thread([&](int thread) {
    for (int bin = thread; bin < kBins; bin += group.threads) segment.bins[bin] = 0;
    if (thread != 0) return;
    segment.search = start_search<Float>(keep, numel);
    segment.infinite = 0;
  });
}

// Adds elements [begin, begin + count) of `scores` to the histogram of the digit that the search is at. The
// tensor's first element has index `base` in its segment. The first pass also looks for infinities and NaNs.
template <class Group, class Float>
SUPERMASK_HD void count_digits(const Group& group, Histogram& histogram, RankedSegment<Float>& segment,
                               const Array& scores, Ranking ranking, int64_t begin, int count, uint32_t base,
                               bool first) {
  if (segment.search.done && !first) return;
  clear(group, histogram);
  group.each_thread([&](int thread) {
    const RadixSearch<Float> search = segment.search;
    bool finite = true;
    const auto read = [&](int64_t i) { return load<Float>(scores, begin + i); };
    in_batches(thread, group.threads, count, read, [&](int64_t i, Float score) {
      const auto key = key_of(score, ranking);
      finite = finite && key < infinity_of<Float>(ranking);
      const int bin = bin_of(search, place_of(key, base + static_cast<uint32_t>(begin + i)));
      if (bin >= 0) group.add(&histogram.bins[bin], 1);
    });
    if (!finite) segment.infinite = 1;
  });
  group.each_thread([&](int thread) {
    for (int bin = thread; bin < kBins; bin += group.threads)
      if (histogram.bins[bin]) group.add(&segment.bins[bin], histogram.bins[bin]);
  });
}

// Takes a segment's search one digit on, and clears its histogram for the next.
template <class Group, class Float>
SUPERMASK_HD void end_pass(const Group& group, Histogram& histogram, RankedSegment<Float>& segment) {
  if (segment.search.done) return;
  group.each_thread([&](int thread) {
    for (int bin = thread; bin < kBins; bin += group.threads) {
      histogram.bins[bin] = segment.bins[bin];
      segment.bins[bin] = 0;
    }
  });
  narrow(group, histogram, segment.search);
}

template <class Group, class Float>
SUPERMASK_HD void write_mask(const Group& group, const RankedSegment<Float>& segment, const Array& scores,
                             Ranking ranking, bool* mask, int64_t begin, int count, uint32_t base) {
  group.each_thread([&](int thread) {
    const auto cut = segment.search.cut;
    const auto read = [&](int64_t i) { return load<Float>(scores, begin + i); };
    in_batches(thread, group.threads, count, read, [&](int64_t i, Float score) {
      const auto place = place_of(key_of(score, ranking), base + static_cast<uint32_t>(begin + i));
      mask[begin + i] = place >= cut;
    });
  });
}

}  // namespace supermask
