// Linear layers with weights +σ, -σ and 0, computed from bits (few inputs) or from lists (many).
//
// Bits: planes[group][word][2][16], 32-bit words. Lane l of group g is output 16 g + l; bit b of word w is
// input 32 w + b; the first plane holds the weights +σ, the second the weights -σ.
//
// Lists: inputs fall into blocks of 128. Of block b and output r the inputs with +σ are
// entries[starts[2 i] : starts[2 i + 1]] and those with -σ entries[starts[2 i + 1] : starts[2 i + 2]], where
// i = b · outputs + r, each as a place in its block.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels.h"
#include "operators.h"

namespace supermask::op {
namespace {

constexpr int64_t kBlockInputs = 128;

struct Output {
  float scale;
  const float* bias;  // or null
  float* data;
  int64_t outputs;

  void write(int64_t input, int64_t row, float sum) const {
    data[input * outputs + row] = bias ? sum * scale + bias[row] : sum * scale;
  }
};

const float* check_inputs(const Tensor& x) {
  check(x.is_cpu() && x.scalar_type() == ScalarType::Float && x.dim() == 2 && x.is_contiguous(),
        "x must be a contiguous float32 tensor of two dimensions on the CPU");
  return static_cast<const float*>(x.data_ptr());
}

// One input: 64 outputs share the loads of a table.
void look_up_one(const uint32_t* planes, int64_t words, const float* tables, int64_t group, int64_t count,
                 float* sums) {
  const uint32_t* first = planes + group * words * 32;
  if (count == 4) return kernels().look_up_4x1(first, words, tables, sums);
  for (int64_t g = 0; g < count; ++g)
    kernels().look_up_1x1(first + g * words * 32, words, tables, sums + 16 * g);
}

// All inputs for groups [from, to): four at a time, and the rest one by one.
void look_up_groups(const uint32_t* planes, int64_t words, const float* tables, int64_t inputs, int64_t from,
                    int64_t to, const Output& out) {
  alignas(64) float sums[128];
  const auto write = [&](int64_t input, int64_t group, const float* values) {
    const int64_t rows = std::min<int64_t>(16, out.outputs - 16 * group);
    for (int64_t row = 0; row < rows; ++row) out.write(input, 16 * group + row, values[row]);
  };
  const int64_t fours = inputs / 4 * 4;
  for (int64_t group = from; group + 2 <= to; group += 2)
    for (int64_t input = 0; input < fours; input += 4) {
      kernels().look_up_2x4(planes + group * words * 32, words, tables + input * words * 128, sums);
      for (int i = 0; i < 8; ++i) write(input + i % 4, group + i / 4, sums + 16 * i);
    }
  for (int64_t input = 0; input < inputs; ++input) {
    int64_t group = input < fours ? from + (to - from) / 2 * 2 : from;
    for (; group < to; group += 4) {
      const int64_t count = std::min<int64_t>(4, to - group);
      look_up_one(planes, words, tables + input * words * 128, group, count, sums);
      for (int64_t g = 0; g < count; ++g) write(input, group + g, sums + 16 * g);
    }
  }
}

}  // namespace

Tensor linear_from_bits(Tensor x, Tensor planes, int64_t outputs, double scale, std::optional<Tensor> bias) {
  const float* inputs = check_inputs(x);
  const int64_t count = x.size(0), features = x.size(1), words = (features + 31) / 32;
  check(outputs >= 0, "outputs must not be negative, but is ", outputs);
  const int64_t groups = (outputs + 15) / 16;
  check(planes.is_cpu() && planes.scalar_type() == ScalarType::Int && planes.is_contiguous() &&
            planes.numel() == groups * words * 32,
        "planes must be a contiguous int32 tensor of ", groups * words * 32, " words on the CPU");
  const Tensor result = torch::stable::empty({count, outputs}, ScalarType::Float);
  const Output out = {static_cast<float>(scale), check_bias(bias, outputs),
                      result.mutable_data_ptr<float>(), outputs};
  std::vector<float> padded(32 * words), tables(count * words * 128);
  for (int64_t input = 0; input < count; ++input) {
    std::copy_n(inputs + input * features, features, padded.begin());
    kernels().subset_sums(padded.data(), 8 * words, tables.data() + input * words * 128);
  }
  const uint32_t* bits = static_cast<const uint32_t*>(planes.data_ptr());
  const int64_t chunks = (groups + 3) / 4, work = words * std::max<int64_t>(count, 1);
  torch::stable::parallel_for(0, chunks, 1 + 2048 / std::max<int64_t>(work, 1), [&](int64_t from, int64_t to) {
    look_up_groups(bits, words, tables.data(), count, 4 * from, std::min(4 * to, groups), out);
  });
  return result;
}

namespace {

// The `width` inputs from `first` on, side by side: packed[feature][width], zeros where there is none.
void pack_inputs(const float* x, int64_t count, int64_t features, int64_t first, int64_t width, float* packed) {
  torch::stable::parallel_for(0, (features + 63) / 64, 4, [&](int64_t from, int64_t to) {
    for (int64_t feature = 64 * from; feature < std::min(64 * to, features); feature += 16)
      for (int64_t i = 0; i < width; ++i)
        for (int64_t f = feature; f < std::min(feature + 16, features); ++f)
          packed[f * width + i] = first + i < count ? x[(first + i) * features + f] : 0.0f;
  });
}

}  // namespace

Tensor linear_from_lists(Tensor x, Tensor starts, Tensor entries, int64_t outputs, double scale,
                         std::optional<Tensor> bias) {
  const float* inputs = check_inputs(x);
  const int64_t count = x.size(0), features = x.size(1);
  const int64_t blocks = (features + kBlockInputs - 1) / kBlockInputs;
  check(outputs >= 0, "outputs must not be negative, but is ", outputs);
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
  const Tensor result = torch::stable::empty({count, outputs}, ScalarType::Float);
  const Output out = {static_cast<float>(scale), check_bias(bias, outputs),
                      result.mutable_data_ptr<float>(), outputs};
  for (int64_t done = 0; done < count;) {
    const int64_t width = count - done > 32 ? 64 : 16, take = std::min(width, count - done);
    // One block more than there are, so that no entry, however wrong, points outside.
    std::vector<float> packed((blocks + 1) * kBlockInputs * width);
    pack_inputs(inputs, count, features, done, width, packed.data());
    torch::stable::parallel_for(0, outputs, 64, [&](int64_t from, int64_t to) {
      std::vector<float> sums((to - from) * width);
      const auto add = width == 64 ? kernels().add_listed_64 : kernels().add_listed_16;
      for (int64_t block = 0; block < blocks; ++block)
        add(packed.data() + block * kBlockInputs * width, listed, first + 2 * (block * outputs + from),
            to - from, sums.data());
      for (int64_t i = 0; i < take; ++i)
        for (int64_t row = from; row < to; ++row) out.write(done + i, row, sums[(row - from) * width + i]);
    });
    done += take;
  }
  return result;
}

}  // namespace supermask::op
