// Selection without a hint, by |score| or by score, within tensors or over several ranked together: a radix
// search in which every digit is a pass over all scores, side by side in many groups. The state of a segment,
// which is what is ranked together, lies in global memory.
//
// Where every tensor of a segment is to keep its best score, those are kept beside the cut: they are taken out
// of every histogram, and the search is for the rest of what is kept. The mask is the same as without them,
// unless that would leave a tensor with none.
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

// The highest of `count` places, place_at(i), into *highest. `shared` has room for one of each thread, whose
// number is a power of two.
template <class Group, class Place, class PlaceAt>
SUPERMASK_HD void find_highest(const Group& group, Place* shared, int64_t count, PlaceAt place_at,
                               Place* highest) {
  group.each_thread([&](int thread) {
    Place best = 0;
    in_batches<2>(thread, group.threads, count, place_at, [&](int64_t, Place place) {
      if (place > best) best = place;
    });
    shared[thread] = best;
  });
  for (int half = group.threads / 2; half > 0; half /= 2)
    group.each_thread([&](int thread) {
      if (thread < half && shared[thread + half] > shared[thread]) shared[thread] = shared[thread + half];
    });
  group.each_thread([&](int thread) {
    if (thread == 0) *highest = shared[0];
  });
}

// Adds the scores read(0) to read(count - 1), of indices from `first_index` on in their segment, to the histogram
// of the digit that its search is at. The first pass also looks for infinities and NaNs.
template <class Group, class Float, class Read>
SUPERMASK_HD void count_digits(const Group& group, Histogram& histogram, RankedSegment<Float>& segment,
                               Read read, Ranking ranking, int count, uint32_t first_index, bool first) {
  if (segment.search.done && !first) return;
  clear(group, histogram);
  group.each_thread([&](int thread) {
    const RadixSearch<Float> search = segment.search;
    bool finite = true;
    in_batches(thread, group.threads, count, read, [&](int64_t i, Float score) {
      const auto key = key_of(score, ranking);
      finite = finite && key < infinity_of<Float>(ranking);
      const int bin = bin_of(search, place_of(key, first_index + static_cast<uint32_t>(i)));
      if (bin >= 0) group.add(&histogram.bins[bin], 1);
    });
    if (!finite) segment.infinite = 1;
  });
  group.each_thread([&](int thread) {
    for (int bin = thread; bin < kBins; bin += group.threads)
      if (histogram.bins[bin]) group.add(&segment.bins[bin], histogram.bins[bin]);
  });
}

// Takes a segment's search one digit on, and clears its histogram for the next. The `count` places of `bests`
// were counted, but are not in question.
template <class Group, class Float>
SUPERMASK_HD void end_pass(const Group& group, Histogram& histogram, RankedSegment<Float>& segment,
                           const typename Places<Float>::Place* bests = nullptr, int count = 0) {
  if (segment.search.done) return;
  group.each_thread([&](int thread) {
    for (int bin = thread; bin < kBins; bin += group.threads) {
      histogram.bins[bin] = segment.bins[bin];
      segment.bins[bin] = 0;
    }
  });
  if (count)
    group.each_thread([&](int thread) {
      for (int i = thread; i < count; i += group.threads) {
        const int bin = bin_of(segment.search, bests[i]);
        if (bin >= 0) group.add(&histogram.bins[bin], ~0u);  // one less
      }
    });
  narrow(group, histogram, segment.search);
}

// Calls put(i, whether it is kept) for the scores read(0) to read(count - 1). `best`, if any, is kept in any case.
template <class Group, class Float, class Read, class Put>
SUPERMASK_HD void write_mask(const Group& group, const RankedSegment<Float>& segment, Read read, Ranking ranking,
                             int count, uint32_t first_index, const typename Places<Float>::Place* best, Put put) {
  group.each_thread([&](int thread) {
    const auto cut = segment.search.cut;
    const auto also = best ? *best : ~typename Places<Float>::Place{0};  // which no score has
    in_batches(thread, group.threads, count, read, [&](int64_t i, Float score) {
      const auto place = place_of(key_of(score, ranking), first_index + static_cast<uint32_t>(i));
      put(i, place >= cut || place == also);
    });
  });
}

}  // namespace supermask
