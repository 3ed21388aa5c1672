// The gradient of a linear layer's weights, gradᵀ · x, without the zeros of `grad`: a ReLU leaves every other one.
//
// An output's list names the samples whose gradient is not 0. It adds up the rows of x of those samples, each times
// that gradient, as a packed convolution adds up inputs: from a panel in the first cache, 128 samples by 64 inputs.
#include <algorithm>

#include "batch.h"
#include "operators.h"

namespace supermask::op {
namespace {

constexpr int64_t kSamples = 128;  // that a list counts in one byte
constexpr int64_t kColumns = 64;   // inputs that are computed at once

struct Matrix {
  const float* values;
  int64_t rows, columns;
};

Matrix check_rows(const Tensor& tensor, const char* what) {
  check(tensor.is_cpu() && tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous() && tensor.dim() == 2,
        what, " must be a contiguous float32 matrix on the CPU");
  return {static_cast<const float*>(tensor.data_ptr()), tensor.sizes()[0], tensor.sizes()[1]};
}

// Lists of a block of samples for a panel of outputs, each with room for all and for a vector more.
struct Lists {
  static constexpr int64_t kRoom = kPanel * kSamples + 16;

  int64_t panels;
  float* values;
  int32_t* starts;
  uint8_t* entries;

  Lists(int64_t blocks, int64_t panels, Scratch& scratch) : panels(panels) {
    const int64_t count = blocks * panels;
    values = scratch.floats(count * (kRoom + kPanel + 1 + kRoom / 4));
    starts = reinterpret_cast<int32_t*>(values + count * kRoom);
    entries = reinterpret_cast<uint8_t*>(starts + count * (kPanel + 1));
  }

  const float* values_of(int64_t place) const { return values + place * kRoom; }
  const int32_t* starts_of(int64_t place) const { return starts + place * (kPanel + 1); }
  const uint8_t* entries_of(int64_t place) const { return entries + place * kRoom; }

  void fill(const Matrix& grad, int64_t block, int64_t panel) const {
    const int64_t first = block * kSamples, begin = panel * kPanel, place = block * panels + panel;
    const int64_t samples = std::min(kSamples, grad.rows - first), outputs = std::min(kPanel, grad.columns - begin);
    alignas(64) float turned[kPanel * kSamples];
    kernels().transpose(grad.values + first * grad.columns + begin, samples, outputs, grad.columns, turned, kSamples);
    int32_t* ends = starts + place * (kPanel + 1);
    uint8_t* listed = entries + place * kRoom;
    float* kept = values + place * kRoom;
    ends[0] = 0, listed[0] = 0, kept[0] = 0;  // the first may be read where nothing is listed
    for (int64_t i = 0; i < outputs; ++i)
      ends[i + 1] = ends[i] + static_cast<int32_t>(kernels().list_nonzero(turned + i * kSamples, samples,
                                                                          listed + ends[i], kept + ends[i]));
  }
};

}  // namespace

Tensor weight_gradient(Tensor grad, Tensor x) {
  const Matrix g = check_rows(grad, "grad"), in = check_rows(x, "x");
  check(g.rows == in.rows, "grad and x must have one row for each sample, but have ", g.rows, " and ", in.rows);
  const int64_t outputs = g.columns, inputs = in.columns;
  const Tensor result = torch::stable::empty({outputs, inputs}, ScalarType::Float);
  float* const out = static_cast<float*>(result.mutable_data_ptr());
  const int64_t blocks = divide_up(g.rows, kSamples), panels = divide_up(outputs, kPanel);
  thread_local Scratch listed;
  const Lists lists(blocks, panels, listed);
  torch::stable::parallel_for(0, blocks * panels, 4, [&](int64_t from, int64_t to) {
    for (int64_t unit = from; unit < to; ++unit) lists.fill(g, unit / panels, unit % panels);
  });
  const int64_t work = grain(g.rows * outputs * kColumns);
  torch::stable::parallel_for(0, divide_up(inputs, kColumns), work, [&](int64_t from, int64_t to) {
    thread_local Scratch scratch;
    float* const panel = scratch.floats((blocks * kSamples + kPanel) * kColumns);
    float* const sums = panel + blocks * kSamples * kColumns;
    for (int64_t column = kColumns * from; column < std::min(kColumns * to, inputs); column += kColumns) {
      const int64_t count = std::min(kColumns, inputs - column), width = 16 * divide_up(count, 16);
      for (int64_t row = 0; row < g.rows; ++row) {
        float* target = panel + row * width;
        std::copy_n(in.values + row * inputs + column, count, target);
        std::fill(target + count, target + width, 0.0f);
      }
      const auto add = kernels().values_float32.add_weighted[width / 16 - 1];
      const bool in_place = count == kColumns && blocks > 0;
      for (int64_t p = 0; p < panels; ++p) {
        const int64_t first = p * kPanel, rows = std::min(kPanel, outputs - first);
        float* target = out + first * inputs + column;
        if (!in_place) std::fill_n(sums, rows * width, 0.0f);
        for (int64_t block = 0; block < blocks; ++block) {
          const int64_t place = block * panels + p;
          const float *here = panel + block * kSamples * width, *values = lists.values_of(place);
          if (in_place)
            kernels().sum_weighted[block > 0](here, lists.entries_of(place), values, lists.starts_of(place), rows,
                                              inputs, target);
          else
            add(here, lists.entries_of(place), values, lists.starts_of(place), rows, sums);
        }
        if (in_place) continue;
        for (int64_t i = 0; i < rows; ++i) std::copy_n(sums + i * width, count, target + i * inputs);
      }
    }
  });
  return result;
}

}  // namespace supermask::op
