// The lists of linear_from_lists, from the weights themselves: as often as a search changes them.
#include <algorithm>
#include <atomic>
#include <vector>

#include "batch.h"
#include "operators.h"

namespace supermask::op {
namespace {

constexpr int64_t kBlock = 128;  // inputs that lists count in one byte

// Bits of a matrix of outputs by inputs, or of its transpose, for one block of 128 inputs.
class SignBits {
 public:
  SignBits(const Tensor& weights, float scale, bool transposed)
      : weights_(static_cast<const float*>(weights.data_ptr())),
        rows_(weights.sizes()[0]),
        columns_(weights.sizes()[1]),
        scale_(scale),
        transposed_(transposed) {}

  int64_t outputs() const { return transposed_ ? columns_ : rows_; }
  int64_t inputs() const { return transposed_ ? rows_ : columns_; }

  // Weights of a block that are not 0.
  int64_t kept_in(int64_t block) const {
    const int64_t input = kBlock * block, wide = std::min(kBlock, inputs() - input);
    if (transposed_) return count_kept(weights_ + input * columns_, wide * columns_);
    int64_t kept = 0;
    for (int64_t row = 0; row < rows_; ++row) kept += count_kept(weights_ + row * columns_ + input, wide);
    return kept;
  }

  // Of the block's inputs two words for each of up to 64 outputs from `first` on; whether there are no other weights.
  bool read(int64_t block, int64_t first, int64_t count, uint64_t (*plus)[2], uint64_t (*minus)[2]) const {
    bool known = true;
    for (int half = 0; half < 2; ++half) {
      const int64_t input = kBlock * block + 64 * half;
      const int64_t wide = std::clamp<int64_t>(inputs() - input, 0, 64);
      uint64_t some[2][64] = {};
      if (transposed_) {
        for (int64_t i = 0; i < wide; ++i)
          known &= signs_at(input + i, first, count, some, i);
        kernels().transpose_bits(some[0]);
        kernels().transpose_bits(some[1]);
      } else if (wide > 0) {
        for (int64_t o = 0; o < count; ++o)
          known &= signs_at(first + o, input, wide, some, o);
      }
      for (int64_t o = 0; o < count; ++o) plus[o][half] = some[0][o], minus[o][half] = some[1][o];
    }
    return known;
  }

 private:
  static int64_t count_kept(const float* weights, int64_t count) {
    int64_t kept = 0;
    for (int64_t done = 0; done < count;) {  // in 32 bits, of which a register holds more
      const int64_t some = std::min<int64_t>(count - done, 1 << 20);
      int32_t here = 0;
      for (int64_t i = 0; i < some; ++i) here += weights[done + i] != 0.0f;
      kept += here, done += some;
    }
    return kept;
  }

  bool signs_at(int64_t row, int64_t column, int64_t count, uint64_t (&bits)[2][64], int64_t to) const {
    const float* weights = weights_ + row * columns_ + column;
    return kernels().sign_bits(weights, count, scale_, &bits[0][to], &bits[1][to]);
  }

  const float* weights_;
  int64_t rows_, columns_;
  float scale_;
  bool transposed_;
};

// Calls body(output, plus, minus) for the outputs of a block, in order; whether all weights are ±scale or 0.
template <class Body>
bool for_each_output(const SignBits& matrix, int64_t block, Body body) {
  uint64_t plus[64][2], minus[64][2];
  bool known = true;
  for (int64_t first = 0; first < matrix.outputs(); first += 64) {
    const int64_t count = std::min<int64_t>(64, matrix.outputs() - first);
    known &= matrix.read(block, first, count, plus, minus);
    for (int64_t o = 0; o < count; ++o) body(first + o, plus[o], minus[o]);
  }
  return known;
}

}  // namespace

void lists_of_weights_into(Tensor starts, Tensor entries, Tensor weights, double scale, bool transposed) {
  check(weights.is_cpu() && weights.scalar_type() == ScalarType::Float && weights.is_contiguous() &&
            weights.dim() == 2,
        "weights must be a contiguous float32 matrix on the CPU");
  check(weights.numel() < INT32_MAX, "weights must be fewer than 2^31, not ", weights.numel());
  const SignBits matrix(weights, static_cast<float>(scale), transposed);
  const int64_t blocks = divide_up(matrix.inputs(), kBlock), lists = 2 * blocks * matrix.outputs();
  check(starts.is_cpu() && starts.scalar_type() == ScalarType::Int && starts.is_contiguous() &&
            starts.numel() == lists + 1,
        "starts must be a contiguous int32 tensor of ", lists + 1, " values on the CPU");
  check(entries.is_cpu() && entries.scalar_type() == ScalarType::Byte && entries.is_contiguous() &&
            entries.numel() >= weights.numel(),
        "entries must be a contiguous uint8 tensor on the CPU with room for all ", weights.numel(), " weights");
  int32_t* first = static_cast<int32_t*>(starts.mutable_data_ptr());
  uint8_t* listed = static_cast<uint8_t*>(entries.mutable_data_ptr());
  std::vector<int64_t> of_block(blocks + 1);
  const int64_t worth = grain(kBlock * std::max<int64_t>(matrix.outputs(), 1));
  torch::stable::parallel_for(0, blocks, worth, [&](int64_t from, int64_t to) {
    for (int64_t block = from; block < to; ++block) of_block[block + 1] = matrix.kept_in(block);
  });
  for (int64_t block = 0; block < blocks; ++block) of_block[block + 1] += of_block[block];
  first[0] = 0;
  std::atomic<bool> known = true;
  torch::stable::parallel_for(0, blocks, worth, [&](int64_t from, int64_t to) {
    for (int64_t block = from; block < to; ++block) {
      uint8_t *next = listed + of_block[block], *end = listed + of_block[block + 1];
      const auto list = [&](int64_t output, const uint64_t(&plus)[2], const uint64_t(&minus)[2]) {
        int32_t* own = first + 2 * (block * matrix.outputs() + output);
        for (int half = 0; half < 2; ++half) next = kernels().places_of_bits(plus[half], 64 * half, next, end);
        own[1] = static_cast<int32_t>(next - listed);
        for (int half = 0; half < 2; ++half) next = kernels().places_of_bits(minus[half], 64 * half, next, end);
        own[2] = static_cast<int32_t>(next - listed);
      };
      if (!for_each_output(matrix, block, list)) known = false;  // then it listed no more than there is room for
    }
  });
  check(known, "weights must be 0, +scale or -scale, and scale is ", scale);
}

}  // namespace supermask::op
