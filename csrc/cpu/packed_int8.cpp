// Linear layers with weights +σ, -σ and 0 over inputs that are rounded to int8; see supermask/layouts.py.
#include <algorithm>
#include <cstring>

#include "batch.h"
#include "operators.h"

namespace supermask::op {
namespace {

constexpr int64_t kTogether = 4;  // inputs that one kernel multiplies

// The inputs as integers, up to four side by side as Int8Kernels::multiply takes them.
struct RoundedBatch {
  RoundedBatch(const Batch& batch, int64_t blocks) : blocks(blocks), rows(batch.count()) {
    thread_local Scratch scratch;
    int8_t* all = reinterpret_cast<int8_t*>(scratch.floats(batch.count() * blocks * 4));
    data = all;
    const int64_t tiles = divide_up(batch.count(), kTogether), depth = 16 * blocks;
    torch::stable::parallel_for(0, tiles, 1 + (1 << 14) / (depth + 1), [&](int64_t from, int64_t to) {
      thread_local Scratch own;
      int8_t* row = reinterpret_cast<int8_t*>(own.floats(4 * blocks));
      for (int64_t i = kTogether * from; i < std::min(kTogether * to, batch.count()); ++i) {
        const int64_t first = i / kTogether * kTogether, wide = std::min(kTogether, batch.count() - first);
        rows[i] = int8_kernels().round(batch.row(i), batch.features(), row);
        std::fill(row + batch.features(), row + depth, int8_t{0});
        int8_t* to_tile = all + first * depth + 4 * (i - first);
        for (int64_t four = 0; four < depth; four += 4) std::memcpy(to_tile + four * wide, row + four, 4);
      }
    });
  }

  int64_t blocks;
  std::vector<RoundedRow> rows;
  const int8_t* data;
};

}  // namespace

Tensor linear_int8(Tensor x, Tensor fields, int64_t outputs, double scale, std::optional<Tensor> bias) {
  const Batch batch(x, outputs, scale, bias);
  const int64_t groups = divide_up(outputs, 16), blocks = divide_up(batch.features(), 16);
  check(batch.features() < 1 << 23, "x must have less than 2^23 features, not ", batch.features());
  check(fields.is_cpu() && fields.scalar_type() == ScalarType::Byte && fields.is_contiguous() &&
            fields.numel() == groups * blocks * 64,
        "fields must be a contiguous uint8 tensor of ", groups * blocks * 64, " bytes on the CPU");
  const RoundedBatch rounded(batch, blocks);
  const uint8_t* packed = static_cast<const uint8_t*>(fields.data_ptr());
  const int64_t count = batch.count(), tiles = divide_up(count, kTogether), units = divide_up(groups, 4) * tiles;
  const int64_t work = 16 * blocks * kPanel * std::min(count, kTogether);
  torch::stable::parallel_for(0, units, grain(work), [&](int64_t from, int64_t to) {
    alignas(64) float sums[kTogether * kPanel];
    for (int64_t unit = from; unit < to; ++unit) {
      const int64_t panel = unit / tiles, first = unit % tiles * kTogether;
      const int64_t inputs = std::min(kTogether, count - first);
      const int64_t wide = std::min<int64_t>(4, groups - 4 * panel);
      const int64_t rows = std::min(kPanel, outputs - kPanel * panel);
      int32_t of_inputs[kTogether];
      for (int64_t i = 0; i < inputs; ++i) of_inputs[i] = rounded.rows[first + i].sum;
      int8_kernels().multiply[inputs - 1](packed + panel * blocks * 256, blocks, wide,
                                          rounded.data + first * 16 * blocks, of_inputs, sums);
      for (int64_t i = 0; i < inputs; ++i) {
        const float factor = rounded.rows[first + i].scale * batch.scale();
        batch.write(first + i, kPanel * panel, rows, sums + i * 16 * wide, factor);
      }
    }
  });
  return batch.result();
}

}  // namespace supermask::op
