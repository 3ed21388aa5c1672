// Linear layers that compute from packed weights. supermask/layouts.py says how each form stores them.
//
// An input's sums over the weights are taken in one order, whatever the batch and the number of threads.
#include <algorithm>
#include <vector>

#include "kernels.h"
#include "operators.h"
#include "scratch.h"
#include "view.h"

namespace supermask::op {
namespace {

constexpr int64_t kPanel = 64;         // outputs that are computed at once
constexpr int64_t kWorth = 1 << 19;    // weights times inputs that are worth a thread
constexpr int64_t kBlockInputs = 128;  // that lists count in one byte

int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// How many units of `work` weights times inputs each a thread should get at least.
int64_t grain(int64_t work) { return 1 + kWorth / std::max<int64_t>(work, 1); }

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
      check(bias->dim() == 1 && bias->numel() == outputs, "bias must have one dimension of ", outputs, " values");
      bias_values_.resize(dtype_of(*bias) == Dtype::float32 && bias->is_contiguous() ? 0 : outputs);
      bias_ = View(*bias, "bias").read(0, outputs, bias_values_.data());
    }
    rows_ = read(x);
    result_ = torch::stable::empty(sizes, x.scalar_type());
    out_ = static_cast<char*>(result_.data_ptr());
  }

  int64_t count() const { return count_; }
  int64_t features() const { return features_; }
  const float* row(int64_t input) const { return rows_ + input * features_; }
  Tensor result() const { return result_; }

  // Outputs [first, first + count) of one input, `count` at most kPanel.
  void write(int64_t input, int64_t first, int64_t count, const float* sums) const {
    float values[kPanel];
    for (int64_t i = 0; i < count; ++i) values[i] = sums[i] * scale_;
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

// Tables for one input; triples beyond its end hold zeros.
void fill_tables(const float* x, int64_t features, int64_t words, float* tables) {
  const int64_t whole = features / 3, rest = features - 3 * whole;
  kernels().triple_sums(x, whole, tables);
  float last[18] = {};
  std::copy_n(x + 3 * whole, rest, last);
  kernels().triple_sums(last, 6 * words - whole, tables + 16 * whole);
}

}  // namespace

Tensor linear_from_triples(Tensor x, Tensor codes, int64_t outputs, double scale, std::optional<Tensor> bias) {
  const Batch batch(x, outputs, scale, bias);
  const int64_t groups = divide_up(outputs, 16), words = divide_up(batch.features(), 18);
  check(codes.is_cpu() && codes.scalar_type() == ScalarType::Int && codes.is_contiguous() &&
            codes.numel() == groups * words * 16,
        "codes must be a contiguous int32 tensor of ", groups * words * 16, " words on the CPU");
  const uint32_t* packed = static_cast<const uint32_t*>(codes.data_ptr());
  // A unit is a panel of outputs for up to four inputs; a thread makes the tables of the inputs it meets.
  const int64_t count = batch.count(), panels = divide_up(groups, 4), units = divide_up(count, 4) * panels;
  const int64_t work = words * 18 * kPanel * std::min<int64_t>(count, 4);
  torch::stable::parallel_for(0, units, grain(work), [&](int64_t from, int64_t to) {
    thread_local Scratch scratch;
    float* tables = scratch.floats(4 * words * 96);
    alignas(64) float sums[4 * kPanel];
    int64_t tables_of = -1;
    for (int64_t unit = from; unit < to; ++unit) {
      const int64_t first = unit / panels * 4, panel = unit % panels, inputs = std::min<int64_t>(4, count - first);
      if (tables_of != first)
        for (int64_t i = 0; i < inputs; ++i)
          fill_tables(batch.row(first + i), batch.features(), words, tables + i * words * 96);
      tables_of = first;
      const uint32_t* start = packed + panel * words * kPanel;
      const int64_t wide = std::min<int64_t>(4, groups - 4 * panel), rows = std::min(kPanel, outputs - kPanel * panel);
      if (inputs == 4) kernels().look_up_4(start, words, wide, tables, sums);
      for (int64_t i = 0; i < inputs; ++i) {
        float* own = sums + i * 16 * wide;
        if (inputs < 4) kernels().look_up_1(start, words, wide, tables + i * words * 96, own);
        batch.write(first + i, kPanel * panel, rows, own);
      }
    }
  });
  return batch.result();
}

namespace {

// The `width` inputs from `first` on, side by side: packed[feature][width], zeros where there is none.
void pack_inputs(const Batch& batch, int64_t first, int64_t width, float* packed) {
  const int64_t features = batch.features(), padded = divide_up(features, kBlockInputs) * kBlockInputs;
  torch::stable::parallel_for(0, padded / 64, 4, [&](int64_t from, int64_t to) {
    for (int64_t feature = 64 * from; feature < 64 * to; feature += 16)
      for (int64_t i = 0; i < width; ++i)
        for (int64_t f = feature; f < feature + 16; ++f)
          packed[f * width + i] = first + i < batch.count() && f < features ? batch.row(first + i)[f] : 0.0f;
  });
}

}  // namespace

Tensor linear_from_lists(Tensor x, Tensor starts, Tensor entries, int64_t outputs, double scale,
                         std::optional<Tensor> bias) {
  const Batch batch(x, outputs, scale, bias);
  const int64_t count = batch.count(), blocks = divide_up(batch.features(), kBlockInputs);
  check(starts.is_cpu() && starts.scalar_type() == ScalarType::Int && starts.is_contiguous() &&
            starts.numel() == 2 * blocks * outputs + 1,
        "starts must be a contiguous int32 tensor of ", 2 * blocks * outputs + 1, " values on the CPU");
  check(entries.is_cpu() && entries.scalar_type() == ScalarType::Byte && entries.is_contiguous(),
        "entries must be a contiguous uint8 tensor on the CPU");
  const int32_t* first = static_cast<const int32_t*>(starts.data_ptr());
  const uint8_t* listed = static_cast<const uint8_t*>(entries.data_ptr());
  check(first[0] == 0 && first[2 * blocks * outputs] == entries.numel() &&
            std::is_sorted(first, first + 2 * blocks * outputs + 1),
        "starts do not fit entries");
  thread_local Scratch scratch;
  for (int64_t done = 0; done < count;) {
    const int64_t width = count - done > 32 ? 64 : 16, take = std::min(width, count - done);
    // One block more than there are, so that no entry, however wrong, points outside.
    float* packed = scratch.floats((blocks + 1) * kBlockInputs * width);
    std::fill_n(packed + blocks * kBlockInputs * width, kBlockInputs * width, 0.0f);
    pack_inputs(batch, done, width, packed);
    const auto add = width == 64 ? kernels().add_listed_64 : kernels().add_listed_16;
    torch::stable::parallel_for(0, divide_up(outputs, kPanel), 1, [&](int64_t from, int64_t to) {
      const int64_t begin = kPanel * from, rows = std::min(kPanel * to, outputs) - begin;
      thread_local Scratch own;
      float* sums = own.floats(rows * width);
      std::fill_n(sums, rows * width, 0.0f);
      for (int64_t block = 0; block < blocks; ++block)
        add(packed + block * kBlockInputs * width, listed, first + 2 * (block * outputs + begin), rows, sums);
      float values[kPanel];
      for (int64_t i = 0; i < take; ++i)
        for (int64_t row = 0; row < rows; row += kPanel) {
          const int64_t wide = std::min(kPanel, rows - row);
          for (int64_t r = 0; r < wide; ++r) values[r] = sums[(row + r) * width + i];
          batch.write(done + i, begin + row, wide, values);
        }
    });
    done += take;
  }
  return batch.result();
}

namespace {

// The outputs [from, to) of all inputs, which lie `apart` from one another.
template <class Value>
void dot_rows(const ValueKernels<Value>& kernel, const uint32_t* masks, int64_t words, const int64_t* starts,
              const Value* values, int64_t kept, const float* inputs, const Batch& batch, int64_t from, int64_t to) {
  const int64_t apart = 32 * words;
  for (int64_t begin = from; begin < to; begin += kPanel)
    for (int64_t first = 0; first < batch.count(); first += 4) {
      const int64_t rows = std::min(kPanel, to - begin), count = std::min<int64_t>(4, batch.count() - first);
      float sums[4][kPanel], four[4];
      for (int64_t r = 0; r < rows; ++r) {
        // The kernel stays within the values whatever the starts hold, once they lie within.
        const int64_t start = std::clamp<int64_t>(starts[begin + r], 0, kept);
        const float* input = inputs + first * apart;
        if (count == 4) {
          kernel.dot_4(masks + (begin + r) * words, words, values + start, values + kept, input, apart, four);
        } else {
          for (int64_t i = 0; i < count; ++i)
            kernel.dot_1(masks + (begin + r) * words, words, values + start, values + kept, input + i * apart, 0,
                         four + i);
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
  check(starts.is_cpu() && starts.scalar_type() == ScalarType::Long && starts.is_contiguous() &&
            starts.numel() == outputs + 1,
        "starts must be a contiguous int64 tensor of ", outputs + 1, " values on the CPU");
  const Dtype dtype = check_float(values, "values");
  check((dtype == Dtype::float32 || dtype == Dtype::bfloat16) && values.is_contiguous() && values.numel() >= 32,
        "values must be a contiguous float32 or bfloat16 tensor that ends with 32 zeros");
  thread_local Scratch scratch;
  float* inputs = scratch.floats(count * 32 * words);
  for (int64_t i = 0; i < count; ++i) {
    float* end = std::copy_n(batch.row(i), features, inputs + i * 32 * words);
    std::fill(end, inputs + (i + 1) * 32 * words, 0.0f);
  }
  const uint32_t* bits = static_cast<const uint32_t*>(masks.data_ptr());
  const int64_t* from_where = static_cast<const int64_t*>(starts.data_ptr());
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
