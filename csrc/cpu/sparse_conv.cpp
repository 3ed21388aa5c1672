// Convolutions with sparse weights as they are, in time for those that are not 0: training steps, whose weights change
// with every one. Zeros are left out by lists that each call lays out anew.
//
// Weights lie in channels_last, (output, tap, channel). Rows of that matrix are what an output adds up. Of a single
// tap it is the matrix that the gradient of inputs is a product with, turned: so for a stride of 1 this gradient is the
// same convolution, with taps in reverse.
#include <optional>

#include "conv.h"
#include "nonzero_lists.h"

namespace supermask::op {
namespace {

// Weights in channels_last: their own memory where they lie so, else a copy.
class Weights {
 public:
  explicit Weights(const Tensor& weights) {
    check(weights.is_cpu() && weights.scalar_type() == ScalarType::Float && weights.dim() == 4 &&
              (weights.is_contiguous() || is_channels_last(weights)),
          "weights must be a float32 tensor of four dimensions on the CPU, contiguous or in channels_last");
    outputs = weights.size(0), channels = weights.size(1), taps = weights.size(2) * weights.size(3);
    values = static_cast<const float*>(weights.data_ptr());
    if (is_channels_last(weights)) return;
    thread_local Scratch scratch;
    float* copy = scratch.floats(weights.numel());
    const int64_t each = channels * taps;
    torch::stable::parallel_for(0, outputs, 1 + (1 << 16) / (each + 1), [&](int64_t from, int64_t to) {
      for (int64_t output = from; output < to; ++output)
        kernels().transpose(values + output * each, channels, taps, taps, copy + output * each, channels);
    });
    values = copy;
  }

  // Those of a panel of outputs, by a place for every kListed of an output's weights.
  void list(int64_t panel, const NonzeroLists& lists, int64_t blocks) const {
    const int64_t first = panel * kPanel, high = std::min(kPanel, outputs - first), depth = channels * taps;
    lists.fill_rows(panel * blocks, values + first * depth, depth, high, depth);
  }

  // Those of a panel of channels, by a place for every kListed outputs of a tap, the last tap first.
  void list_turned(int64_t panel, const NonzeroLists& lists, int64_t blocks) const {
    const int64_t first = panel * kPanel, high = std::min(kPanel, channels - first);
    int64_t place = panel * blocks;
    for (int64_t tap = taps; tap-- > 0;)
      for (int64_t output = 0; output < outputs; output += kListed)
        lists.fill_columns(place++, values + (output * taps + tap) * channels + first, taps * channels, high,
                           std::min(kListed, outputs - output));
  }

  int64_t outputs, channels, taps;
  const float* values;
};

// The rows of the matrix of inputs by (tap, channel); panels end with a tap where `whole`.
Rows rows_by_tap(const Geometry& g, bool whole) {
  Rows rows;
  for (const int64_t tap : g.taps())
    for (int64_t channel = 0; channel < g.channels; ++channel) rows.offsets.push_back(tap + channel * g.plane());
  const int64_t depth = static_cast<int64_t>(rows.offsets.size()), part = whole ? g.channels : depth;
  rows.cuts.push_back(0);
  for (int64_t begin = 0; begin < depth; begin += part)
    for (int64_t done = 0; done < part; done += kPanelRows)
      rows.cuts.push_back(begin + std::min(part, done + kPanelRows));
  return rows;
}

}  // namespace

Tensor sparse_conv(Tensor x, Tensor weights, Counts stride, Counts padding, bool transposed) {
  const Weights w(weights);
  const int64_t inputs = transposed ? w.outputs : w.channels, outputs = transposed ? w.channels : w.outputs;
  check(x.is_cpu() && x.scalar_type() == ScalarType::Float && x.dim() == 4 &&
            (x.is_contiguous() || is_channels_last(x)),
        "x must be a float32 tensor of four dimensions on the CPU, contiguous or in channels_last");
  check(x.size(1) == inputs, "x must have ", inputs, " channels, but has ", x.size(1));
  check(stride.size() == 2 && padding.size() == 2, "stride and padding must be 2 integers each");
  const Counts kernel = {weights.size(2), weights.size(3)};
  if (transposed) {
    check(stride[0] == 1 && stride[1] == 1, "the transpose needs a stride of 1");
    for (int i = 0; i < 2; ++i) {
      check(padding[i] >= 0 && padding[i] < kernel[i], "padding must be less than the kernel for the transpose");
      padding[i] = kernel[i] - 1 - padding[i];
    }
  }
  const Geometry g = check_geometry(x, outputs, kernel, stride, {padding[0], padding[0], padding[1], padding[1]}, {1, 1}, 1);
  const Rows rows = rows_by_tap(g, transposed);
  const int64_t blocks = rows.blocks(), panels = divide_up(outputs, kPanel);
  thread_local Scratch scratch;
  const NonzeroLists lists(panels * blocks, scratch);
  torch::stable::parallel_for(0, panels, grain(kPanel * g.depth), [&](int64_t from, int64_t to) {
    for (int64_t panel = from; panel < to; ++panel)
      transposed ? w.list_turned(panel, lists, blocks) : w.list(panel, lists, blocks);
  });
  return convolve(g, rows, x, 1.0f, std::nullopt,
                  [&](int64_t wide, const float* inputs, int64_t block, int64_t first, int64_t count, float* sums) {
                    for (const int64_t end = first + count; first < end;) {  // which panels of outputs cut
                      const int64_t panel = first / kPanel, skip = first % kPanel;
                      const int64_t take = std::min(end - first, kPanel - skip), place = panel * blocks + block;
                      kernels().values_float32.add_weighted[wide - 1](inputs, lists.entries(place), lists.values(place),
                                                                      lists.starts(place) + skip, take, sums);
                      first += take, sums += take * 16 * wide;
                    }
                  });
}

}  // namespace supermask::op
