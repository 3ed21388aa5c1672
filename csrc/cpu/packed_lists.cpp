// The lists of linear_from_lists, from the weights themselves: as often as a search changes them.
#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>
#include <vector>

#include "batch.h"
#include "operators.h"

namespace supermask::op {
namespace {

constexpr int64_t kBlock = 128;  // inputs that lists count in one byte

// Which weights of a matrix are +scale and which are -scale: a word for 64 inputs of an output. Words of the same
// inputs stand side by side for all outputs. They are two for every block of inputs, and 0 where there is none.
struct SignWords {
  int64_t outputs, blocks;
  uint64_t *plus, *minus;

  static int64_t size(int64_t outputs, int64_t inputs) { return 4 * divide_up(inputs, kBlock) * outputs; }

  SignWords(uint64_t* memory, int64_t outputs, int64_t inputs)
      : outputs(outputs),
        blocks(divide_up(inputs, kBlock)),
        plus(memory),
        minus(memory + 2 * blocks * outputs) {
    if (divide_up(inputs, 64) == 2 * blocks) return;
    for (uint64_t* words : {plus, minus}) std::fill_n(words + (2 * blocks - 1) * outputs, outputs, uint64_t{0});
  }
};

// Reads up to 64 rows from `first` on; whether all weights are 0, +scale or -scale.
bool read_rows(const float* weights, int64_t columns, float scale, int64_t first, int64_t count,
               const SignWords& words) {
  bool known = true;
  for (int64_t row = first; row < first + count; ++row)
    for (int64_t column = 0; column < columns; column += 64) {
      const int64_t place = column / 64 * words.outputs + row;
      known &= kernels().sign_bits(weights + row * columns + column, std::min<int64_t>(64, columns - column), scale,
                                   words.plus + place, words.minus + place);
    }
  return known;
}

// The same of the transpose, from the words of up to 64 rows.
void turn_rows(const SignWords& words, int64_t first, int64_t count, const SignWords& turned) {
  for (int64_t column = 0; column < turned.outputs; column += 64) {
    const int64_t from = column / 64 * words.outputs + first, to = first / 64 * turned.outputs + column;
    for (const auto& [source, target] : {std::pair{words.plus, turned.plus}, std::pair{words.minus, turned.minus}}) {
      uint64_t tile[64] = {};
      std::copy_n(source + from, count, tile);
      kernels().transpose_bits(tile);
      std::copy_n(tile, std::min<int64_t>(64, turned.outputs - column), target + to);
    }
  }
}

void list(const SignWords& words, int32_t* starts, uint8_t* entries) {
  const int64_t outputs = words.outputs, blocks = words.blocks, worth = grain(kBlock * std::max<int64_t>(outputs, 1));
  std::vector<int64_t> ends(blocks + 1);
  torch::stable::parallel_for(0, blocks, worth, [&](int64_t from, int64_t to) {
    for (int64_t block = from; block < to; ++block)
      for (const uint64_t* bits : {words.plus, words.minus})
        ends[block + 1] += kernels().count_bits(bits + 2 * block * outputs, 2 * outputs);
  });
  for (int64_t block = 0; block < blocks; ++block) ends[block + 1] += ends[block];
  starts[0] = 0;
  torch::stable::parallel_for(0, blocks, worth, [&](int64_t from, int64_t to) {
    for (int64_t block = from; block < to; ++block) {
      const uint64_t *plus = words.plus + 2 * block * outputs, *minus = words.minus + 2 * block * outputs;
      const uint64_t *both_plus[2] = {plus, plus + outputs}, *both_minus[2] = {minus, minus + outputs};
      list_rows_kernel()(both_plus, both_minus, outputs, entries, entries + ends[block], entries + ends[block + 1],
                         starts + 2 * block * outputs + 1);
    }
  });
}

void check_lists(const Tensor& starts, const Tensor& entries, int64_t outputs, int64_t inputs) {
  const int64_t lists = 2 * divide_up(inputs, kBlock) * outputs, weights = outputs * inputs;
  check(starts.is_cpu() && starts.scalar_type() == ScalarType::Int && starts.is_contiguous() &&
            starts.numel() == lists + 1,
        "starts must be a contiguous int32 tensor of ", lists + 1, " values on the CPU");
  check(entries.is_cpu() && entries.scalar_type() == ScalarType::Byte && entries.is_contiguous() &&
            entries.numel() >= weights,
        "entries must be a contiguous uint8 tensor on the CPU with room for all ", weights, " weights");
}

}  // namespace

void lists_of_weights_into(Tensor starts, Tensor entries, Tensor weights, double scale,
                           std::optional<Tensor> turned_starts, std::optional<Tensor> turned_entries) {
  check(weights.is_cpu() && weights.scalar_type() == ScalarType::Float && weights.is_contiguous() &&
            weights.dim() == 2,
        "weights must be a contiguous float32 matrix on the CPU");
  check(weights.numel() < INT32_MAX, "weights must be fewer than 2^31, not ", weights.numel());
  check(turned_starts.has_value() == turned_entries.has_value(),
        "the transpose needs both starts and entries, or neither");
  const int64_t rows = weights.sizes()[0], columns = weights.sizes()[1];
  check_lists(starts, entries, rows, columns);
  if (turned_starts) check_lists(*turned_starts, *turned_entries, columns, rows);

  thread_local Scratch scratch;
  const int64_t plain = SignWords::size(rows, columns), both = plain + SignWords::size(columns, rows);
  uint64_t* memory = reinterpret_cast<uint64_t*>(scratch.floats(2 * (turned_starts ? both : plain)));
  const SignWords words(memory, rows, columns);
  std::optional<SignWords> turned;
  if (turned_starts) turned.emplace(memory + plain, columns, rows);
  const float* values = static_cast<const float*>(weights.data_ptr());
  std::atomic<bool> known = true;
  torch::stable::parallel_for(0, divide_up(rows, 64), grain(64 * columns), [&](int64_t from, int64_t to) {
    for (int64_t first = 64 * from; first < std::min(64 * to, rows); first += 64) {
      const int64_t count = std::min<int64_t>(64, rows - first);
      if (!read_rows(values, columns, static_cast<float>(scale), first, count, words)) known = false;
      if (turned) turn_rows(words, first, count, *turned);
    }
  });
  check(known, "weights must be 0, +scale or -scale, and scale is ", scale);
  list(words, static_cast<int32_t*>(starts.mutable_data_ptr()), static_cast<uint8_t*>(entries.mutable_data_ptr()));
  if (turned)
    list(*turned, static_cast<int32_t*>(turned_starts->mutable_data_ptr()),
         static_cast<uint8_t*>(turned_entries->mutable_data_ptr()));
}

}  // namespace supermask::op
