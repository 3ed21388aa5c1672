// What the operators of packed linear layers share: their inputs, bias and output.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "kernels.h"
#include "scratch.h"
#include "tensors.h"
#include "view.h"

namespace supermask {

constexpr int64_t kPanel = 64;       // outputs that are computed at once
constexpr int64_t kWorth = 1 << 19;  // weights times inputs that are worth a thread

inline int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// How many units of `work` weights times inputs each a thread should get at least.
inline int64_t grain(int64_t work) { return 1 + kWorth / std::max<int64_t>(work, 1); }

// The inputs as rows of float32, and where the outputs go: the same shape but for the last dimension.
class Batch {
 public:
  Batch(const Tensor& x, int64_t outputs, double scale, const std::optional<Tensor>& bias)
      : outputs_(outputs), scale_(static_cast<float>(scale)), dtype_(check_float(x, "x")) {
    check(x.dim() >= 1, "x must have at least one dimension");
    check(outputs >= 0, "outputs must not be negative, but is ", outputs);
    std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
    features_ = sizes.back();
    sizes.back() = outputs;
    count_ = 1;
    for (size_t i = 0; i + 1 < sizes.size(); ++i) count_ *= sizes[i];
    if (bias) {
      check_float(*bias, "bias");
      check(bias->dim() == 1 && bias->numel() == outputs, "bias must have one dimension of ", outputs,
            " values");
      bias_values_.resize(dtype_of(*bias) == Dtype::float32 && bias->is_contiguous() ? 0 : outputs);
      bias_ = View(*bias, "bias").read(0, outputs, bias_values_.data());
    }
    rows_ = read(x);
    result_ = torch::stable::empty(sizes, x.scalar_type());
    out_ = static_cast<char*>(result_.data_ptr());
  }

  int64_t count() const { return count_; }
  int64_t features() const { return features_; }
  float scale() const { return scale_; }
  const float* row(int64_t input) const { return rows_ + input * features_; }
  Tensor result() const { return result_; }

  // Outputs [first, first + count) of one input, `count` at most kPanel.
  void write(int64_t input, int64_t first, int64_t count, const float* sums) const {
    write(input, first, count, sums, scale_);
  }

  // The same with a scale of this input's own instead of the layer's.
  void write(int64_t input, int64_t first, int64_t count, const float* sums, float scale) const {
    float values[kPanel];
    for (int64_t i = 0; i < count; ++i) values[i] = sums[i] * scale;
    if (bias_)
      for (int64_t i = 0; i < count; ++i) values[i] += bias_[first + i];
    const int64_t place = input * outputs_ + first;
    kernels().float32.store(dtype_, values, count, out_ + place * static_cast<int64_t>(size_of(dtype_)));
  }

 private:
  static Dtype dtype_of(const Tensor& tensor) { return *float_dtype(tensor); }

  const float* read(const Tensor& x) {
    const View view(x, "x");
    if (const float* data = view.data<float>(0)) return data;
    thread_local Scratch scratch;
    float* rows = scratch.floats(x.numel());
    torch::stable::parallel_for(0, divide_up(x.numel(), kTile), 16, [&](int64_t from, int64_t to) {
      for (int64_t begin = from * kTile; begin < std::min(to * kTile, x.numel()); begin += kTile) {
        const int64_t count = std::min(kTile, x.numel() - begin);
        float* tile = rows + begin;
        const float* values = view.read(begin, count, tile);
        if (values != tile) std::copy_n(values, count, tile);
      }
    });
    return rows;
  }

  int64_t outputs_, features_, count_;
  float scale_;
  Dtype dtype_;
  std::vector<float> bias_values_;
  const float* bias_ = nullptr;
  const float* rows_;
  Tensor result_;
  char* out_;
};

}  // namespace supermask
