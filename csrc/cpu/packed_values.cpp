// Linear layers with any weights, from bits of the mask and the values that it keeps; see supermask/ops/layouts.py.
#include <algorithm>

#include "batch.h"
#include "lists.h"
#include "operators.h"

namespace supermask::op {
namespace {

// The outputs [from, to) of all inputs, which lie `apart` from one another.
template <class Value>
void dot_rows(const ValueKernels<Value>& kernel, const uint32_t* masks, int64_t words, const int64_t* starts,
              const Value* values, int64_t kept, const float* inputs, const Batch& batch, int64_t from,
              int64_t to) {
  const int64_t apart = 32 * words;
  for (int64_t begin = from; begin < to; begin += kPanel)
    for (int64_t first = 0; first < batch.count(); first += 4) {
      const int64_t rows = std::min(kPanel, to - begin), count = std::min<int64_t>(4, batch.count() - first);
      float sums[4][kPanel], four[4];
      for (int64_t r = 0; r < rows; ++r) {
        // The kernel stays within the values whatever the starts hold, once they lie within.
        const int64_t start = std::clamp<int64_t>(starts[begin + r], 0, kept);
        const float* input = inputs + first * apart;
        const uint32_t* mask = masks + (begin + r) * words;
        if (count == 4) {
          kernel.dot_4(mask, words, values + start, values + kept, input, apart, four);
        } else {
          for (int64_t i = 0; i < count; ++i)
            kernel.dot_1(mask, words, values + start, values + kept, input + i * apart, 0, four + i);
        }
        for (int64_t i = 0; i < count; ++i) sums[i][r] = four[i];
      }
      for (int64_t i = 0; i < count; ++i) batch.write(first + i, begin, rows, sums[i]);
    }
}

}  // namespace

Tensor linear_from_values(Tensor x, Tensor masks, Tensor starts, Tensor values, int64_t outputs, double scale,
                          std::optional<Tensor> bias) {
  const Batch batch(x, outputs, scale, bias);
  const int64_t count = batch.count(), features = batch.features(), words = divide_up(features, 32);
  check(masks.is_cpu() && masks.scalar_type() == ScalarType::Int && masks.is_contiguous() &&
            masks.numel() == outputs * words,
        "masks must be a contiguous int32 tensor of ", outputs * words, " words on the CPU");
  const int64_t* from_where = check_starts(starts, outputs);
  const Dtype dtype = check_float(values, "values");
  check((dtype == Dtype::float32 || dtype == Dtype::bfloat16) && values.is_contiguous() &&
            values.numel() >= 32,
        "values must be a contiguous float32 or bfloat16 tensor that ends with 32 zeros");
  thread_local Scratch scratch;
  float* inputs = scratch.floats(count * 32 * words);
  for (int64_t i = 0; i < count; ++i) {
    float* end = std::copy_n(batch.row(i), features, inputs + i * 32 * words);
    std::fill(end, inputs + (i + 1) * 32 * words, 0.0f);
  }
  const uint32_t* bits = static_cast<const uint32_t*>(masks.data_ptr());
  const int64_t kept = values.numel() - 32;
  torch::stable::parallel_for(0, outputs, grain(32 * words * count), [&](int64_t from, int64_t to) {
    const auto run = [&](const auto& kernel, const auto* data) {
      dot_rows(kernel, bits, words, from_where, data, kept, inputs, batch, from, to);
    };
    if (dtype == Dtype::float32)
      run(kernels().values_float32, static_cast<const float*>(values.data_ptr()));
    else
      run(kernels().values_bfloat16, static_cast<const BFloat16*>(values.data_ptr()));
  });
  return batch.result();
}

}  // namespace supermask::op
