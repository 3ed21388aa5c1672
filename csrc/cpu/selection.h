// Exact selection over many tensors at once, in one pass over the scores where a guess of the cut is good.
//
// A segment is what is ranked together: one tensor, or all of them in a global ranking. A window of keys
// around the expected cut divides its scores: above it they stay, below it they go, and the few within are
// candidates, set aside with their keys. Counting says whether the window held the cut; then the candidates
// alone decide where exactly it lies, and only they are touched again. The window comes from the previous
// cut (warm start) or from a sample of the scores; if it missed, histograms over all scores find one that
// does not. The result is the same whatever the guess was, and whatever the number of threads.
#pragma once

#include <vector>

#include "kernels.h"

namespace supermask {

// Where the scores of a selection come from and where its masks go. Tensors are numbered; positions are
// row-major. The methods are called from several threads, for disjoint stretches of at most kTile elements.
template <class Float>
class SelectionWork {
 public:
  virtual ~SelectionWork() = default;
  // Scores [begin, begin + count), in `tile` or elsewhere. On the first visit of a stretch they may move.
  virtual const Float* scores(int tensor, int64_t begin, int64_t count, bool first, Float* tile) = 0;
  virtual bool* mask(int tensor) = 0;
  // Called when the masks [begin, begin + count) are settled, but for candidates, which stand at false…
  virtual void settle(int, int64_t, int64_t) {}
  // … and for every candidate that the cut keeps.
  virtual void keep(int, int64_t) {}
};

// A guess of the cut that the caller carries from one step to the next: the previous cut's key, 0 if there
// is none, and half the width of the window to try. Any content is valid and changes no result.
struct Hint {
  int64_t key, spread;
};

template <class Float>
class Selection {
 public:
  using Key = typename Keys<Float>::Key;

  // One segment per tensor, or one for all. `hints` has an entry per segment, or is null.
  Selection(const std::vector<int64_t>& numels, const std::vector<int64_t>& keep, Hint* hints,
            Ranking ranking = Ranking::magnitude);

  // Throws, after the first pass, when a score is not finite.
  void run(SelectionWork<Float>& work);

 private:
  struct Block {
    int tensor, segment;
    int64_t begin, count;  // within its tensor
    TileCounts counts;
    std::vector<uint16_t> where;  // candidates: index in the block …
    std::vector<Key> keys;        // … and key
  };
  struct Segment {
    int64_t keep, numel, first, last;  // its blocks are [first, last)
    Window<Key> window;
    Cut<int64_t> place;  // block and index in it of the last kept score with the cut's key
    Key key;
    bool settled;
  };

  void guess(SelectionWork<Float>& work, Segment& segment, const Hint* hint);
  Window<Key> sample(SelectionWork<Float>& work, const Segment& segment);
  Window<Key> narrow(SelectionWork<Float>& work, const Segment& segment);
  void classify(SelectionWork<Float>& work, Block& block, bool first);
  void locate(Segment& segment);
  void finish(SelectionWork<Float>& work, const Block& block);
  template <class Body>
  void for_blocks(int64_t first, int64_t last, Body body);

  const Ranking ranking_;
  const Key infinity_;
  std::vector<Segment> segments_;
  std::vector<Block> blocks_;
  Hint* hints_;
};

}  // namespace supermask
