// See selection.h.
#include "selection.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "tensors.h"

namespace supermask {
namespace {

constexpr int64_t kBlock = 16384;   // what one thread takes at a time; an index in it fits 16 bits
constexpr int64_t kSmall = 4096;    // below this, all scores are candidates
constexpr int64_t kRun = 8;         // neighbours that a sample takes together: half a cache line
constexpr int kBins = 2048;         // of the histograms that narrow a window down
constexpr double kDeviations = 5;   // of a sample's rank, to either side of the expected one

// Width of a warm window in keys of float32: 2^14 of them span 0.1 to 0.2 % of a score.
constexpr int64_t kNarrowest = int64_t{1} << 14, kFirst = int64_t{1} << 17, kWidest = int64_t{1} << 20;

// A hint may hold anything; this says whether its key can be one. (Raw keys of positive doubles are too large
// for a hint: such a selection starts cold.)
template <class Key>
bool plausible(const Hint& hint, Key infinity) {
  return hint.key > 0 && static_cast<uint64_t>(hint.key) < infinity;
}

// What to remember of a cut: where it is, and four times as far to either side as it came.
template <class Float>
Hint follow(const Hint& last, int64_t key, typename Keys<Float>::Key infinity) {
  if (!plausible(last, infinity) || key < 0) return {key, kFirst};
  const int shift = Keys<Float>::mantissa_bits - Keys<float>::mantissa_bits;
  const int64_t drift = std::min(std::abs(key - last.key) >> shift, kWidest);
  return {key, std::clamp(4 * drift, kNarrowest, kWidest)};
}

uint32_t scatter(uint32_t i) { return (i + 1) * 0x9E3779B9u; }

}  // namespace

template <class Float>
Selection<Float>::Selection(const std::vector<int64_t>& numels, const std::vector<int64_t>& keep,
                            Hint* hints, Ranking ranking)
    : ranking_(ranking), infinity_(infinity_of<Float>(ranking)), hints_(hints) {
  const bool global = keep.size() == 1 && numels.size() != 1;
  for (const int64_t count : keep) segments_.push_back({count, 0, 0, 0, {}, {}, 0, false});
  for (size_t tensor = 0; tensor < numels.size(); ++tensor) {
    const int index = global ? 0 : static_cast<int>(tensor);
    Segment& segment = segments_[index];
    if (segment.numel == 0) segment.first = static_cast<int64_t>(blocks_.size());
    for (int64_t begin = 0; begin < numels[tensor]; begin += kBlock) {
      const int64_t count = std::min(kBlock, numels[tensor] - begin);
      blocks_.push_back({static_cast<int>(tensor), index, begin, count, {}, {}, {}});
    }
    segment.numel += numels[tensor];
    segment.last = static_cast<int64_t>(blocks_.size());
  }
}

template <class Float>
template <class Body>
void Selection<Float>::for_blocks(int64_t first, int64_t last, Body body) {
  const bool little = last - first <= 2;
  torch::stable::parallel_for(first, last, little ? last - first : 1, [&](int64_t from, int64_t to) {
    for (int64_t block = from; block < to; ++block) body(blocks_[block]);
  });
}

template <class Float>
void Selection<Float>::run(SelectionWork<Float>& work) {
  const int64_t all = static_cast<int64_t>(blocks_.size());
  for (size_t i = 0; i < segments_.size(); ++i) guess(work, segments_[i], hints_ ? hints_ + i : nullptr);
  for_blocks(0, all, [&](Block& block) { classify(work, block, true); });
  for (const Block& block : blocks_) check(block.counts.finite, "scores are not finite");
  for (Segment& segment : segments_) {
    locate(segment);
    if (segment.settled) continue;
    segment.window = narrow(work, segment);
    for_blocks(segment.first, segment.last, [&](Block& block) { classify(work, block, false); });
    locate(segment);
  }
  for_blocks(0, all, [&](const Block& block) { finish(work, block); });
  if (!hints_) return;
  for (size_t i = 0; i < segments_.size(); ++i)
    hints_[i] = follow<Float>(hints_[i], static_cast<int64_t>(segments_[i].key), infinity_);
}

// Sets the window in which to look for the cut first.
template <class Float>
void Selection<Float>::guess(SelectionWork<Float>& work, Segment& segment, const Hint* hint) {
  if (segment.keep == 0) {
    segment.window = {infinity_, infinity_};
  } else if (segment.keep == segment.numel) {
    segment.window = {0, 0};
  } else if (segment.numel <= kSmall) {
    segment.window = {0, infinity_};
  } else if (hint && plausible(*hint, infinity_)) {
    const int shift = Keys<Float>::mantissa_bits - Keys<float>::mantissa_bits;
    const Key key = static_cast<Key>(hint->key);
    const Key spread = static_cast<Key>(std::clamp(hint->spread, kNarrowest, kWidest)) << shift;
    segment.window = {key - std::min(key, spread), key + std::min(infinity_ - key, spread)};
  } else {
    segment.window = sample(work, segment);
  }
}

// A window that holds the cut but for bad luck, from the ranks of a stratified sample.
template <class Float>
Window<typename Keys<Float>::Key> Selection<Float>::sample(SelectionWork<Float>& work, const Segment& segment) {
  const int64_t runs = std::clamp<int64_t>(segment.numel / 128, 128, 8192);
  std::vector<Key> keys;
  keys.reserve(runs * kRun);
  Float tile[kRun];
  const auto key = [raw = ranking_ == Ranking::raw](Float score) {
    return raw ? raw_key_of(score) : key_of(score);
  };
  int64_t b = segment.first, before = 0;  // scores of the segment ahead of block b
  for (int64_t i = 0; i < runs; ++i) {
    const double place = (static_cast<double>(i) + scatter(static_cast<uint32_t>(i)) * 0x1p-32) / runs;
    const int64_t position = std::min<int64_t>(place * segment.numel, segment.numel - 1);
    while (position - before >= blocks_[b].count) before += blocks_[b++].count;
    const int64_t count = std::min(kRun, blocks_[b].count - (position - before));
    const Float* scores =
        work.scores(blocks_[b].tensor, blocks_[b].begin + position - before, count, false, tile);
    for (int64_t j = 0; j < count; ++j) keys.push_back(key(scores[j]));
  }
  const int64_t size = static_cast<int64_t>(keys.size());
  const double share = static_cast<double>(segment.keep) / segment.numel;
  const int64_t margin = 2 + static_cast<int64_t>(kDeviations * std::sqrt(size * share * (1 - share)));
  const int64_t rank = size - static_cast<int64_t>(share * size);  // of the cut, counted from the smallest
  Window<Key> window = {0, infinity_};
  auto end = keys.end();
  if (rank + margin < size) {
    std::nth_element(keys.begin(), keys.begin() + rank + margin, end);
    end = keys.begin() + rank + margin;
    window.high = std::min(*end, window.high - 1) + 1;
  }
  if (rank > margin) {
    std::nth_element(keys.begin(), keys.begin() + rank - margin, end);
    window.low = std::min(keys[rank - margin], window.high);
  }
  return window;
}

// A window that certainly holds the cut and little else: histograms, each within one bin of the last.
template <class Float>
Window<typename Keys<Float>::Key> Selection<Float>::narrow(SelectionWork<Float>& work, const Segment& segment) {
  Window<Key> window = {0, infinity_};
  int64_t rank = segment.keep, inside = segment.numel;  // the cut is the rank-th largest in the window
  while (window.high - window.low > 1 && inside > std::max(kSmall, segment.numel / 64)) {
    int shift = 0;
    while ((window.high - window.low - 1) >> shift >= kBins) ++shift;
    std::vector<int64_t> bins(kBins);
    std::mutex merging;
    for_blocks(segment.first, segment.last, [&](Block& block) {
      int64_t own[kBins] = {};
      alignas(64) Float tile[kTile];
      for (int64_t done = 0; done < block.count; done += kTile) {
        const int64_t count = std::min(kTile, block.count - done);
        const Float* scores = work.scores(block.tensor, block.begin + done, count, false, tile);
        rank_kernels<Float>(ranking_).histogram(scores, count, window, shift, own);
      }
      const std::lock_guard<std::mutex> lock(merging);
      for (int bin = 0; bin < kBins; ++bin) bins[bin] += own[bin];
    });
    int bin = kBins - 1;
    while (rank > bins[bin]) rank -= bins[bin--];
    inside = bins[bin];
    const Key low = window.low + (static_cast<Key>(bin) << shift);
    window = {low, std::min(window.high, low + (Key{1} << shift))};
  }
  return window;
}

template <class Float>
void Selection<Float>::classify(SelectionWork<Float>& work, Block& block, bool first) {
  alignas(64) Float tile[kTile];
  const Window<Key> window = segments_[block.segment].window;
  block.counts = {0, 0, true};
  block.where.clear();
  block.keys.clear();
  uint16_t where[kTile];
  Key keys[kTile];
  for (int64_t done = 0; done < block.count; done += kTile) {
    const int64_t begin = block.begin + done, count = std::min(kTile, block.count - done);
    const Float* scores = work.scores(block.tensor, begin, count, first, tile);
    const TileCounts counts = rank_kernels<Float>(ranking_).classify(
        scores, count, window, work.mask(block.tensor) + begin, static_cast<int>(done), where, keys);
    block.where.insert(block.where.end(), where, where + counts.candidates);
    block.keys.insert(block.keys.end(), keys, keys + counts.candidates);
    block.counts.above += counts.above;
    block.counts.candidates += counts.candidates;
    block.counts.finite = block.counts.finite && counts.finite;
    work.settle(block.tensor, begin, count);
  }
}

// Finds the cut among the candidates, unless the window missed it.
template <class Float>
void Selection<Float>::locate(Segment& segment) {
  int64_t rank = segment.keep, candidates = 0;
  for (int64_t b = segment.first; b < segment.last; ++b) {
    rank -= blocks_[b].counts.above;
    candidates += blocks_[b].counts.candidates;
  }
  segment.settled = rank >= 0 && rank <= candidates;
  segment.key = segment.window.high;
  segment.place = {0, -1};
  if (!segment.settled || rank == 0) return;
  std::vector<Key> keys;
  keys.reserve(candidates);
  for (int64_t b = segment.first; b < segment.last; ++b)
    keys.insert(keys.end(), blocks_[b].keys.begin(), blocks_[b].keys.end());
  std::nth_element(keys.begin(), keys.begin() + rank - 1, keys.end(), std::greater<Key>());
  segment.key = keys[rank - 1];
  // The cut's own key is among the first `rank`, as often as equal scores are to be kept.
  int64_t equal = std::count(keys.begin(), keys.begin() + rank, segment.key);
  for (int64_t b = segment.first; b < segment.last && equal; ++b)
    for (int64_t i = 0; i < blocks_[b].counts.candidates && equal; ++i)
      if (blocks_[b].keys[i] == segment.key && --equal == 0) segment.place = {b, blocks_[b].where[i]};
}

// Settles a block's candidates.
template <class Float>
void Selection<Float>::finish(SelectionWork<Float>& work, const Block& block) {
  const Segment& segment = segments_[block.segment];
  const int64_t self = &block - blocks_.data();
  const int64_t everything = kBlock, nothing = -1;
  const Cut<Key> cut = {segment.key, self < segment.place.key    ? everything
                                     : self == segment.place.key ? segment.place.position
                                                                 : nothing};
  bool* mask = work.mask(block.tensor) + block.begin;
  for (int64_t i = 0; i < block.counts.candidates; ++i) {
    const int64_t at = block.where[i];
    if (!keeps(cut, block.keys[i], at)) continue;
    mask[at] = true;
    work.keep(block.tensor, block.begin + at);
  }
}

template class Selection<float>;
template class Selection<double>;

}  // namespace supermask
