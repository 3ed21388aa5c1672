// Launches of the selection; see selection.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "supermask/groups.h"
#include "supermask/items.h"
#include "supermask/ranking.h"
#include "supermask/segment.h"

namespace supermask::cuda {

// A tensor that is selected within by itself, with its row of the hints.
template <class Item>
struct Selected {
  Item item;
  Segment segment;
  Hint* hint;
};

// Device memory of a selection within tensors: what each tile found, and its candidates; for each tensor, whether
// its window missed; and for a ranking by many blocks.
struct TileMemory {
  Tile* tiles;
  uint64_t* slots;  // kSlots for each tile
  unsigned* missed;
  RankedSegment<float>* ranked;
};

// Two launches: one pass over all tensors, and the settling of each. Where a tensor is large, a third one ranks
// those whose windows missed. `rule` moves the scores of a StepItem.
void select_within(const std::vector<Selected<ScoreItem>>& tensors, TileMemory memory, cudaStream_t stream);
void step_within(const std::vector<Selected<StepItem>>& tensors, const Sgd& rule, TileMemory memory,
                 cudaStream_t stream);

// A tensor of a ranking: its first element has index `base` in segment `segment`.
struct Ranked {
  Array scores;
  bool* mask;
  int64_t numel;
  uint32_t base;
  int segment, number;
  int64_t first_stretch;  // in Bests::of_stretch

  __host__ __device__ int64_t stretches() const { return (numel + kStretch - 1) / kStretch; }
};

// Device memory for the best score of every stretch and, by number, of every tensor; or null.
template <class Float>
struct Bests {
  typename Places<Float>::Place *of_stretch, *of_tensor;
};

struct Counted {
  int64_t keep, numel;
};

// Selection without hints; `segments` is device memory for one per count. With `bests`, the best of every tensor
// is kept beside what is counted.
template <class Float>
void rank(const std::vector<Ranked>& tensors, const std::vector<Counted>& counts, Ranking ranking,
          RankedSegment<Float>* segments, Bests<Float> bests, cudaStream_t stream);

// Sets the hint of every segment that met a score which is not finite to kNotFinite.
template <class Float>
void mark_hints(const RankedSegment<Float>* segments, int count, Hint* hints, cudaStream_t stream);

// Whether a segment met a score that is not finite. Waits for the device.
template <class Float>
bool met_infinite(const RankedSegment<Float>* segments, int count, cudaStream_t stream);

// N:M selection. `infinite`, if any, is set to 1 if a score is not finite, and to 0 otherwise.
void select_groups(const std::vector<GroupedItem>& tensors, bool wide, int64_t n, int64_t m, Ranking ranking,
                   unsigned* infinite, cudaStream_t stream);
bool is_set(const unsigned* flag, cudaStream_t stream);  // waits for the device

}  // namespace supermask::cuda
