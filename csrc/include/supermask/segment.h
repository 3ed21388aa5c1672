// Selection within one tensor in one pass, where the window of its hint holds the cut. Tiles are classified
// side by side: scores above the window stay, those below go, the candidates between are set aside. Then one
// group settles the segment: it finds the cut among the candidates and touches them alone. Where the window
// missed, it ranks all scores, or leaves a large segment to be ranked by many groups. The result is the same
// whatever the hint said, and in whatever order threads run.
//
// An item is a tensor with its mask and whatever else moves with it:
//   Inputs read(index)                  everything to be read of an element
//   float move(rule, inputs, index)     its score, moved if this is a step
//   void put(inputs, index, kept)       writes what follows from the mask
//   float score(index), void put(index, kept)     the same later, by index alone
#pragma once

#include <cstdint>

#include "supermask/group.h"
#include "supermask/hint.h"
#include "supermask/place.h"
#include "supermask/ranking.h"

namespace supermask {

constexpr int kTileElements = 2048;  // elements of a tile
constexpr int kSlots = 256;          // candidates of a tile that are set aside
constexpr int kSettlingThreads =
    768;  // of the group that settles a segment: 1024 would leave too few registers
constexpr int64_t kSmallSegment = 8192;  // up to here all scores are ranked at once
constexpr int64_t kLargeSegment = 1 << 19;  // from here on many groups rank what a window missed

struct Segment {
  int64_t keep, numel;
  int64_t first_tile;  // in the arrays of tiles and of candidates

  SUPERMASK_MEMBER int64_t tiles() const { return (numel + kTileElements - 1) / kTileElements; }
};

// What a tile found. More candidates than there are slots count, too; those beyond are not set aside.
struct Tile {
  unsigned above, candidates, finite;
};

SUPERMASK_HD Window<uint32_t> first_window(const Segment& segment, const Hint& hint) {
  if (segment.keep == segment.numel) return {0, 0};
  if (segment.keep == 0 || segment.numel <= kSmallSegment)
    return {Keys<float>::infinity, Keys<float>::infinity};
  return window_of(hint);
}

// Classifies elements [begin, begin + count) of `item`, count <= kTileElements. `tile` is shared by the
// group.
template <class Group, class Item, class Rule>
SUPERMASK_HD void classify_tile(const Group& group, Tile& tile, const Item& item, const Rule& rule,
                                Window<uint32_t> window, int64_t begin, int count, uint64_t* slots,
                                Tile* result) {
  group.each_thread([&](int thread) {
    if (thread == 0) tile = {0, 0, 1};
  });
  group.each_thread([&](int thread) {
    const Rule now = current(rule);
    unsigned above = 0;
    bool finite = true;
    const auto read = [&](int64_t i) { return item.read(begin + i); };
    const auto classify = [&](int64_t i, const typename Item::Inputs& inputs) {
      const int64_t index = begin + i;
      const float score = item.move(now, inputs, index);
      const uint32_t key = key_of(score);
      const bool stays = key >= window.high;
      above += stays;
      finite = finite && key < Keys<float>::infinity;
      item.put(inputs, index, stays);
      if (key < window.low || stays) return;
      const unsigned slot = group.add(&tile.candidates, 1);
      if (slot < kSlots) slots[slot] = place_of(key, static_cast<uint32_t>(index));
    };
    in_batches(thread, group.threads, count, read, classify);
    if (above) group.add(&tile.above, above);
    if (!finite) tile.finite = 0;
  });
  group.each_thread([&](int thread) {
    if (thread == 0) *result = tile;
  });
}

// Memory that a settling group shares.
struct Settling {
  Histogram histogram;
  RadixSearch<float> search;
  unsigned above, candidates, overflow, infinite;
  bool hit;
};

// Finds the cut of a segment whose tiles are classified, corrects the masks and renews the hint. Where the window
// missed and `missed` is given, only sets that to 1, and to 0 otherwise.
template <class Group, class Item>
SUPERMASK_HD void settle_segment(const Group& group, Settling& shared, const Item& item,
                                 const Segment& segment, const Tile* tiles, const uint64_t* slots, Hint* hint,
                                 unsigned* missed = nullptr) {
  const int64_t count = segment.tiles();
  tiles += segment.first_tile;
  slots += segment.first_tile * kSlots;
  group.each_thread([&](int thread) {
    if (thread == 0) shared.above = shared.candidates = shared.overflow = shared.infinite = 0;
  });
  group.each_thread([&](int thread) {
    unsigned above = 0, candidates = 0;
    for (int64_t t = thread; t < count; t += group.threads) {
      const Tile tile = tiles[t];
      above += tile.above;
      candidates += tile.candidates;
      if (tile.candidates > kSlots) shared.overflow = 1;
      if (!tile.finite) shared.infinite = 1;
    }
    group.add(&shared.above, above);
    group.add(&shared.candidates, candidates);
  });
  group.each_thread([&](int thread) {
    if (thread != 0) return;
    const int64_t rank = segment.keep - shared.above;
    shared.hit = !shared.overflow && rank >= 0 && rank <= shared.candidates;
    shared.search = shared.hit ? start_search<float>(rank, shared.candidates, first_window(segment, *hint))
                               : start_search<float>(segment.keep, segment.numel);
    if (missed) *missed = !shared.hit;
  });
  const bool hit = shared.hit;
  if (missed && !hit) return;
  // Threads that share a tile's candidates: a power of two, so that it divides their number.
  int sharing = 1;
  while (sharing < 32 && 2 * sharing * count <= group.threads && group.threads % (2 * sharing) == 0) sharing *= 2;
  const auto for_candidates = [&](int thread, auto visit) {
    for (int64_t t = thread / sharing; t < count; t += group.threads / sharing) {
      const uint64_t* places = slots + t * kSlots;
      in_batches(
          thread % sharing, sharing, tiles[t].candidates, [&](int64_t i) { return places[i]; },
          [&](int64_t, uint64_t place) { visit(place); });
    }
  };
  const auto for_scores = [&](int thread, auto visit) {
    in_batches(
        thread, group.threads, segment.numel, [&](int64_t i) { return item.score(i); },
        [&](int64_t i, float score) { visit(place_of(key_of(score), static_cast<uint32_t>(i))); });
  };
  while (!shared.search.done) {
    clear(group, shared.histogram);
    group.each_thread([&](int thread) {
      const auto count_place = [&](uint64_t place) {
        const int bin = bin_of(shared.search, place);
        if (bin >= 0) group.add(&shared.histogram.bins[bin], 1);
      };
      hit ? for_candidates(thread, count_place) : for_scores(thread, count_place);
    });
    narrow(group, shared.histogram, shared.search);
  }
  group.each_thread([&](int thread) {
    const uint64_t cut = shared.search.cut;
    const auto put = [&](uint64_t place) {
      // Candidates stand at false.
      if (!hit || place >= cut) item.put(index_of_place(place), place >= cut);
    };
    hit ? for_candidates(thread, put) : for_scores(thread, put);
    if (thread != 0) return;
    const Window<uint32_t> window = first_window(segment, *hint);
    const bool none = cut == ~uint64_t{0}, all = cut == 0;  // of those in question
    const uint32_t key = none ? window.high : all && hit ? window.low : key_of_place(cut);
    *hint = follow(*hint, key, !shared.infinite);
  });
}

// Ranks all scores of a segment, and writes its mask and hint, with all groups of `grid`: each_group(body) calls
// body(group, number) in every group, and waits until all have returned. `state` lies in global memory.
template <class Grid, class Item>
SUPERMASK_HD void rank_segment(const Grid& grid, Histogram& histogram, RankedSegment<float>& state,
                               const Item& item, const Segment& segment, Hint* hint) {
  const auto for_stretches = [&](int number, auto body) {
    for (int64_t begin = int64_t{number} * kStretch; begin < segment.numel; begin += int64_t{grid.groups} * kStretch) {
      const int64_t rest = segment.numel - begin;
      body(begin, static_cast<int>(rest < kStretch ? rest : kStretch),
           [&item, begin](int64_t i) { return item.score(begin + i); });
    }
  };
  grid.each_group([&](const auto& group, int number) {
    if (number == 0) start_ranking(group, state, segment.keep, segment.numel);
  });
  for (int pass = 0; pass < kPasses<float>; ++pass) {
    grid.each_group([&](const auto& group, int number) {
      for_stretches(number, [&](int64_t begin, int count, auto read) {
        count_digits(group, histogram, state, read, Ranking::magnitude, count, static_cast<uint32_t>(begin),
                     pass == 0);
      });
    });
    grid.each_group([&](const auto& group, int number) {
      if (number == 0) end_pass(group, histogram, state);
    });
  }
  grid.each_group([&](const auto& group, int number) {
    for_stretches(number, [&](int64_t begin, int count, auto read) {
      write_mask(group, state, read, Ranking::magnitude, count, static_cast<uint32_t>(begin), nullptr,
                 [&](int64_t i, bool kept) { item.put(begin + i, kept); });
    });
    if (number != 0) return;
    group.each_thread([&](int thread) {
      if (thread != 0) return;
      const bool none = state.search.cut == ~uint64_t{0};
      const uint32_t key = none ? first_window(segment, *hint).high : key_of_place(state.search.cut);
      *hint = follow(*hint, key, !state.infinite);
    });
  });
}

}  // namespace supermask
