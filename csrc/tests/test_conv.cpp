// The inner loops of packed convolutions, on integers, whose sums are exact in any order. Buffers are allocated
// to the element, so that the sanitizers see every step over an end.
#include <algorithm>
#include <vector>

#include "check.h"
#include "kernels.h"

using namespace supermask;

namespace {

float small_integer(uint64_t index) { return static_cast<float>(random_word(index) % 19) - 9; }

std::vector<float> integers(int64_t count) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = small_integer(i);
  return values;
}

void test_pad_row(int64_t width, int64_t step) {
  const std::vector<float> row = integers(width);
  for (int64_t first = -5; first <= width + 1; ++first)
    for (const int64_t count : {0, 1, 4, 17, 40}) {
      std::vector<float> to(count, -1.0f);
      kernels().pad_row(row.data(), width, first, step, count, to.data());
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = i * step + first;
        expect(to[i] == (at >= 0 && at < width ? row[at] : 0.0f), "value of a padded row");
      }
    }
}

// Rows of runs of `length` positions each, the last one shorter if it must be.
void test_pack_panel(int64_t length, int64_t positions, int64_t rows) {
  const int64_t width = (positions + 15) / 16 * 16, pitch = length + 3;
  std::vector<Run> runs;
  for (int64_t done = 0; done < positions; done += length)
    runs.push_back({done / length * pitch, std::min(length, positions - done), done});
  const int64_t reach = runs.back().from + runs.back().count;
  const std::vector<float> inputs = integers(rows - 1 + reach);
  std::vector<int64_t> offsets(rows);
  for (int64_t row = 0; row < rows; ++row) offsets[row] = rows - 1 - row;
  std::vector<float> panel(rows * width + 16);
  kernels().pack_panel(inputs.data(), offsets.data(), rows, runs.data(), runs.size(), width, panel.data());
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < positions; ++i)
      expect(panel[row * width + i] == inputs[offsets[row] + i / length * pitch + i % length], "value of a panel");
}

void test_add_listed(int64_t wide, int64_t rows, int64_t listed) {
  const int64_t width = 16 * wide, panel_rows = 128;
  const std::vector<float> panel = integers(panel_rows * width), before = integers(rows * width);
  std::vector<uint8_t> entries;
  std::vector<int32_t> starts = {0};
  for (int64_t i = 0; i < 2 * rows; ++i) {
    const int64_t count = listed ? random_word(i) % listed : 0;
    for (int64_t k = 0; k < count; ++k) entries.push_back(random_word(100 + entries.size()) % panel_rows);
    starts.push_back(static_cast<int32_t>(entries.size()));
  }
  if (entries.empty()) entries.push_back(0);
  std::vector<float> sums = before;
  kernels().add_listed[wide - 1](panel.data(), entries.data(), starts.data(), rows, sums.data());
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < width; ++i) {
      float expected = before[row * width + i];
      for (int32_t k = starts[2 * row]; k < starts[2 * row + 2]; ++k)
        expected += (k < starts[2 * row + 1] ? 1 : -1) * panel[entries[k] * width + i];
      expect(sums[row * width + i] == expected, "sum of listed rows");
    }
  std::vector<int16_t> order(rows);  // the last first
  std::vector<float> ordered(rows * width);
  for (int64_t row = 0; row < rows; ++row) {
    order[row] = static_cast<int16_t>(rows - 1 - row);
    std::copy_n(before.data() + row * width, width, ordered.data() + order[row] * width);
  }
  kernels().add_ordered[wide - 1](panel.data(), entries.data(), starts.data(), order.data(), rows, ordered.data());
  for (int64_t i = 0; i < rows * width; ++i)
    expect(ordered[order[i / width] * width + i % width] == sums[i], "sum of listed rows in an order");
  const std::vector<float> bias = integers(rows);
  std::vector<float> scaled = sums;
  kernels().scale_rows(scaled.data(), rows, width, 0.5f, bias.data());
  kernels().scale_rows(sums.data(), rows, width, 0.5f, nullptr);
  for (int64_t i = 0; i < rows * width; ++i) expect(scaled[i] == sums[i] + bias[i / width], "scaled sum");
}

void test_pair_rows(int64_t pairs, int64_t width) {
  const std::vector<float> inputs = integers(2 * pairs * width);
  std::vector<float> panel(4 * pairs * width);
  kernels().pair_rows(inputs.data(), pairs, width, panel.data());
  for (int64_t pair = 0; pair < pairs; ++pair)
    for (int64_t i = 0; i < width; ++i) {
      const float a = inputs[2 * pair * width + i], b = inputs[(2 * pair + 1) * width + i];
      const float* at = panel.data() + 4 * pair * width + i;
      expect(at[0] == a && at[width] == b && at[2 * width] == a + b && at[3 * width] == a - b, "rows of a pair");
    }
}

template <class Value>
void test_add_weighted(const ValueKernels<Value>& table, int64_t wide, int64_t rows, int64_t listed) {
  const int64_t width = 16 * wide, panel_rows = 128;
  const std::vector<float> panel = integers(panel_rows * width), before = integers(rows * width);
  std::vector<uint8_t> entries;
  std::vector<Value> weights;
  std::vector<int32_t> starts = {0};
  const auto list = [&] {
    const uint64_t at = entries.size();
    entries.push_back(random_word(100 + at) % panel_rows);
    weights.emplace_back();
    from_float(small_integer(1000 + at), weights.back());
  };
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = listed ? random_word(i) % listed : 0; k > 0; --k) list();
    starts.push_back(static_cast<int32_t>(entries.size()));
  }
  if (entries.empty()) list();
  std::vector<float> sums = before;
  table.add_weighted[wide - 1](panel.data(), entries.data(), weights.data(), starts.data(), rows, sums.data());
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < width; ++i) {
      float expected = before[row * width + i];
      for (int32_t k = starts[row]; k < starts[row + 1]; ++k)
        expected += to_float(weights[k]) * panel[entries[k] * width + i];
      expect(sums[row * width + i] == expected, "sum of weighted rows");
    }
}

// Lists of what is not 0, and the sums of the rows that they name.
void test_entries(int64_t wide, int64_t rows, int64_t depth, uint64_t kept) {
  const int64_t width = 16 * wide;
  const int32_t bytes = static_cast<int32_t>(4 * width);
  const std::vector<float> panel = integers(depth * width), before = integers(rows * width);
  std::vector<float> values(rows * depth);
  std::vector<Entry> entries;
  std::vector<int32_t> starts = {0};
  for (int64_t row = 0; row < rows; ++row) {
    float* here = values.data() + row * depth;
    for (int64_t i = 0; i < depth; ++i)
      here[i] = random_word(row * depth + i) % 10 < kept ? 1 + static_cast<float>(random_word(i) % 7) : 0.0f;
    const std::vector<float> alone(here, here + depth);
    std::vector<Entry> found(depth + 8);
    found.resize(kernels().list_entries(alone.data(), depth, bytes, found.data()));
    size_t next = 0;
    for (int64_t i = 0; i < depth; ++i) {
      if (alone[i] == 0) continue;
      const bool there = next < found.size() && found[next].value == alone[i] && found[next].bytes == i * bytes;
      expect(there, "entry of a list");
      ++next;
    }
    expect(next == found.size(), "number of entries");
    entries.insert(entries.end(), found.begin(), found.end());
    starts.push_back(static_cast<int32_t>(entries.size()));
  }
  // In rows that lie apart, new and added up; nothing is written between them.
  const int64_t apart = width + 3;
  std::vector<float> fresh(rows * apart - 3, -7.5f), added = fresh;
  for (int64_t row = 0; row < rows; ++row)
    std::copy_n(before.data() + row * width, width, added.data() + row * apart);
  for (std::vector<float>* out : {&fresh, &added})
    kernels().sum_entries[out == &added][wide - 1](panel.data(), entries.data(), starts.data(), rows, out->data(),
                                                   apart, panel.data(), 2);
  for (int64_t i = 0; i < rows * apart - 3; ++i) {
    const int64_t row = i / apart, column = i % apart;
    if (column >= width) {
      expect(fresh[i] == -7.5f && added[i] == -7.5f, "between rows");
      continue;
    }
    float sum = 0;
    for (int64_t k = 0; k < depth; ++k) sum += values[row * depth + k] * panel[k * width + column];
    expect(fresh[i] == sum, "sum of rows that entries name");
    expect(added[i] == before[row * width + column] + sum, "the same, added up");
  }
}

}  // namespace

int main() {
  std::printf("%s\n", kernels().name);
  for (const int64_t width : {1, 2, 7, 16, 33})
    for (const int64_t step : {1, 2, 3, 5}) test_pad_row(width, step);
  for (const int64_t length : {1, 3, 4, 7, 8, 15, 16})
    for (const int64_t positions : {1, 4, 8, 15, 16, 31, 48, 64}) test_pack_panel(length, positions, 9);
  for (int64_t wide = 1; wide <= 4; ++wide)
    for (const int64_t depth : {0, 1, 7, 8, 30, 128})
      for (const uint64_t kept : {0, 3, 10}) test_entries(wide, 5, depth, kept);
  for (const int64_t width : {16, 32})
    for (const int64_t pairs : {0, 1, 3, 64}) test_pair_rows(pairs, width);
  for (int64_t wide = 1; wide <= 4; ++wide)
    for (const int64_t listed : {0, 2, 5, 40})
      for (const int64_t rows : {1, 2, 17}) {
        test_add_listed(wide, rows, listed);
        test_add_weighted(kernels().values_float32, wide, rows, listed);
        test_add_weighted(kernels().values_bfloat16, wide, rows, listed);
      }
  return finish();
}
