// Linear layers with weights +σ, -σ and 0 from lists of pairs of inputs. supermask/ops/layouts.py says how it stores
// them, and in which order.
//
// A pair's sum and difference stand beside its inputs, so that two weights cost one addition: at density 0.3 an output
// adds 0.26 rows for each of its inputs, and at 0.1 still 0.1. An input's sums over the weights are taken in one order,
// whatever the batch and the number of threads.
#include <algorithm>

#include "batch.h"
#include "lists.h"
#include "operators.h"

namespace supermask::op {
namespace {

constexpr int64_t kPairs = 64;   // whose rows an entry names
constexpr int64_t kGroup = 512;  // outputs whose lists stand in an order of their own
constexpr int64_t kTile = 16;    // inputs side by side, or several times as many

// Of 32 inputs the rows of all pairs fill a first cache of 32 KB. Where few weights are kept hardly any sum or
// difference is asked for, and it can hold the other rows of 64 inputs.
constexpr int64_t kTiles = 2, kTilesOfFew = 4, kFew = 8;  // at most one entry for so many weights

const int16_t* check_order(const Tensor& order, int64_t blocks, int64_t outputs) {
  check(order.is_cpu() && order.scalar_type() == ScalarType::Short && order.is_contiguous() &&
            order.numel() == blocks * outputs,
        "order must be a contiguous int16 tensor of ", blocks * outputs, " values on the CPU");
  const int16_t* places = static_cast<const int16_t*>(order.data_ptr());
  uint16_t signs = 0;  // of those that are negative or beyond the last
  for (int64_t first = 0; first < blocks * outputs;) {
    const int64_t rows = std::min(kGroup, outputs - first % outputs);
    for (int64_t i = first; i < first + rows; ++i)
      signs = static_cast<uint16_t>(signs | places[i] | (rows - 1 - places[i]));
    first += rows;
  }
  check(signs >> 15 == 0, "order must hold places in groups of ", kGroup, " outputs");
  return places;
}

// The rows of one block for the inputs [first, first + take): panel[pair][4][width], zeros where there is none.
// `inputs` is room for half as much.
void pack_pairs(const Batch& batch, int64_t first, int64_t take, int64_t block, int64_t width, float* inputs,
                float* panel) {
  const int64_t from = block * 2 * kPairs, here = std::min(2 * kPairs, batch.features() - from);
  if (here < 2 * kPairs || take < width) std::fill_n(inputs, 2 * kPairs * width, 0.0f);
  kernels().transpose(batch.row(first) + from, take, here, batch.features(), inputs, width);
  kernels().pair_rows(inputs, kPairs, width, panel);
}

// The outputs [begin, end), whole groups of them, for the inputs [first, first + take). Every block is arranged anew,
// which takes little beside its lists and leaves it in the first cache.
void add_pairs(const Batch& batch, const ByteLists& lists, const int16_t* order, int64_t outputs, int64_t first,
               int64_t take, int64_t begin, int64_t end) {
  const int64_t blocks = divide_up(batch.features(), 2 * kPairs), width = kTile * divide_up(take, kTile);
  thread_local Scratch scratch;
  float* panel = scratch.floats((6 * kPairs + end - begin) * width);
  float *inputs = panel + 4 * kPairs * width, *sums = inputs + 2 * kPairs * width;
  std::fill_n(sums, (end - begin) * width, 0.0f);
  const auto add = kernels().add_ordered[width / kTile - 1];
  for (int64_t block = 0; block < blocks; ++block) {
    pack_pairs(batch, first, take, block, width, inputs, panel);
    for (int64_t row = begin; row < end; row += kGroup) {
      const int64_t place = block * outputs + row;
      add(panel, lists.entries, lists.starts + 2 * place, order + place, std::min(kGroup, end - row),
          sums + (row - begin) * width);
    }
  }
  alignas(64) float turned[kTilesOfFew * kTile * kPanel];
  for (int64_t row = begin; row < end; row += kPanel) {
    const int64_t rows = std::min(kPanel, end - row);
    kernels().transpose(sums + (row - begin) * width, rows, take, width, turned, kPanel);
    for (int64_t i = 0; i < take; ++i) batch.write(first + i, row, rows, turned + kPanel * i);
  }
}

}  // namespace

Tensor linear_from_pairs(Tensor x, Tensor starts, Tensor entries, Tensor order, int64_t outputs, double scale,
                         std::optional<Tensor> bias) {
  const Batch batch(x, outputs, scale, bias);
  const int64_t count = batch.count(), blocks = divide_up(batch.features(), 2 * kPairs);
  const ByteLists lists = check_lists(starts, entries, 2 * blocks * outputs);
  const int16_t* places = check_order(order, blocks, outputs);
  // A unit is a group of outputs for 16 inputs. Of neighbouring ones a thread takes together what it has of a group,
  // and then all groups of the same inputs that it has as a whole.
  const int64_t tiles = kFew * entries.numel() <= outputs * batch.features() ? kTilesOfFew : kTiles;
  const int64_t units = divide_up(outputs, kGroup) * tiles;
  torch::stable::parallel_for(0, divide_up(count, tiles * kTile) * units, 1, [&](int64_t from, int64_t to) {
    while (from < to) {
      const int64_t group = from % units / tiles, tile = from % tiles;
      const int64_t left = std::min(to, (from / units + 1) * units) - from;
      const int64_t some = tile || left < tiles ? std::min(tiles - tile, left) : left / tiles * tiles;
      const int64_t first = (from / units * tiles + tile) * kTile;
      const int64_t take = std::min(std::min(some, tiles) * kTile, count - first);
      if (take > 0)
        add_pairs(batch, lists, places, outputs, first, take, group * kGroup,
                  std::min((group + divide_up(some, tiles)) * kGroup, outputs));
      from += some;
    }
  });
  return batch.result();
}

}  // namespace supermask::op
