// Linear layers with few weights of any kind, from the values and the places of their inputs; see
// supermask/ops/layouts.py.
//
// An input's sums over the weights are taken in one order, whatever the batch and the number of threads.
#include <algorithm>

#include "batch.h"
#include "lists.h"
#include "operators.h"

namespace supermask::op {
namespace {

constexpr int64_t kSideBySide = 8;
constexpr int64_t kMostFeatures = 1 << 15;
constexpr int64_t kPlaces = 1 << 16;  // room for all that a place may name, so that none, however wrong, points outside

struct Kept {
  const int64_t* starts;
  const uint16_t* places;
};

// The outputs [from, to) of the `take` inputs from `first` on, which is one, or more side by side.
template <class Value>
void dot_outputs(const ValueKernels<Value>& kernel, const Kept& kept, const Value* values, const float* inputs,
                 const Batch& batch, int64_t first, int64_t take, int64_t from, int64_t to) {
  const auto dot = take == 1 ? kernel.dot_places_1 : kernel.dot_places_8;
  for (int64_t begin = from; begin < to; begin += kPanel) {
    const int64_t rows = std::min(kPanel, to - begin);
    float sums[kSideBySide][kPanel], some[kSideBySide];
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t start = kept.starts[begin + r];
      dot(kept.places + start, values + start, kept.starts[begin + r + 1] - start, inputs, some);
      for (int64_t i = 0; i < take; ++i) sums[i][r] = some[i];
    }
    for (int64_t i = 0; i < take; ++i) batch.write(first + i, begin, rows, sums[i]);
  }
}

}  // namespace

Tensor linear_from_places(Tensor x, Tensor starts, Tensor places, Tensor values, int64_t outputs, double scale,
                          std::optional<Tensor> bias) {
  const Batch batch(x, outputs, scale, bias);
  const int64_t count = batch.count(), features = batch.features();
  check(features <= kMostFeatures, "x must have at most ", kMostFeatures, " features, not ", features);
  const int64_t* from_where = check_starts(starts, outputs);
  check(places.is_cpu() && places.scalar_type() == ScalarType::Short && places.is_contiguous(),
        "places must be a contiguous int16 tensor on the CPU");
  const Dtype dtype = check_float(values, "values");
  check((dtype == Dtype::float32 || dtype == Dtype::bfloat16) && values.is_contiguous() &&
            values.numel() == places.numel(),
        "values must be a contiguous float32 or bfloat16 tensor of ", places.numel(), " values");
  const Kept kept = {from_where, static_cast<const uint16_t*>(places.data_ptr())};
  check(kept.starts[0] == 0 && kept.starts[outputs] == places.numel() &&
            std::is_sorted(kept.starts, kept.starts + outputs + 1),
        "starts do not fit places");
  thread_local Scratch scratch;
  thread_local int64_t written = kPlaces * kSideBySide;  // beyond them are zeros
  float* inputs = scratch.floats(kPlaces * kSideBySide);
  for (int64_t first = 0; first < count; first += kSideBySide) {
    const int64_t take = std::min(kSideBySide, count - first), width = take == 1 ? 1 : kSideBySide;
    // Places beyond the inputs find zeros, and nothing of another call.
    if (written > features * width) std::fill(inputs + features * width, inputs + written, 0.0f);
    written = features * width;
    if (take == 1) {
      std::copy_n(batch.row(first), features, inputs);
    } else {
      if (take < width) std::fill_n(inputs, features * width, 0.0f);
      kernels().transpose(batch.row(first), take, features, features, inputs, width);
    }
    const int64_t work = places.numel() / std::max<int64_t>(outputs, 1) * width;
    torch::stable::parallel_for(0, outputs, grain(work), [&](int64_t from, int64_t to) {
      const auto run = [&](const auto& kernel, const auto* data) {
        dot_outputs(kernel, kept, data, inputs, batch, first, take, from, to);
      };
      if (dtype == Dtype::float32)
        run(kernels().values_float32, static_cast<const float*>(values.data_ptr()));
      else
        run(kernels().values_bfloat16, static_cast<const BFloat16*>(values.data_ptr()));
    });
  }
  return batch.result();
}

}  // namespace supermask::op
