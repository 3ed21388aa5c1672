// One ranking over several tensors in which each of them keeps its first in rank: the mask of the ranking itself,
// unless that leaves a tensor with none. Then the best scores are ranked above all others.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "selection.h"
#include "tensors.h"

namespace supermask {

// The same work with the best score of every tensor at the end of its range.
template <class Float>
class LiftedWork final : public SelectionWork<Float> {
 public:
  LiftedWork(SelectionWork<Float>& work, const std::vector<int64_t>& numels, Ranking ranking) : work_(work) {
    for (size_t tensor = 0; tensor < numels.size(); ++tensor)
      best_.push_back(find_best(static_cast<int>(tensor), numels[tensor], ranking));
  }

  const Float* scores(int tensor, int64_t begin, int64_t count, bool, Float* tile) override {
    const Float* scores = work_.scores(tensor, begin, count, false, tile);
    const int64_t at = best_[tensor] - begin;
    if (at < 0 || at >= count) return scores;
    if (scores != tile) std::copy_n(scores, count, tile);
    tile[at] = std::numeric_limits<Float>::max();
    return tile;
  }
  bool* mask(int tensor) override { return work_.mask(tensor); }
  void settle(int tensor, int64_t begin, int64_t count) override { work_.settle(tensor, begin, count); }
  void keep(int tensor, int64_t position) override { work_.keep(tensor, position); }

 private:
  int64_t find_best(int tensor, int64_t numel, Ranking ranking) {
    alignas(64) Float tile[kTile];
    int64_t best = -1;
    typename Keys<Float>::Key highest = 0;
    for (int64_t begin = 0; begin < numel; begin += kTile) {
      const int64_t count = std::min(kTile, numel - begin);
      const Float* scores = work_.scores(tensor, begin, count, false, tile);
      for (int64_t i = 0; i < count; ++i) {
        const auto key = ranking == Ranking::raw ? raw_key_of(scores[i]) : key_of(scores[i]);
        if (best < 0 || key > highest) best = begin + i, highest = key;
      }
    }
    return best;
  }

  SelectionWork<Float>& work_;
  std::vector<int64_t> best_;
};

// Corrects what a ranking over all tensors has left in `work`.
template <class Float>
void keep_one_each(SelectionWork<Float>& work, const std::vector<int64_t>& numels, int64_t keep, Ranking ranking) {
  int64_t tensors = 0;
  bool empty = false;
  for (size_t i = 0; i < numels.size(); ++i) {
    if (!numels[i]) continue;
    ++tensors;
    empty = empty || !std::memchr(work.mask(static_cast<int>(i)), 1, numels[i]);
  }
  check_floor(keep, tensors);
  if (!empty) return;
  LiftedWork<Float> lifted(work, numels, ranking);
  Selection<Float>(numels, {keep}, nullptr, ranking).run(lifted);
}

}  // namespace supermask
