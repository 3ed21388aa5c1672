// What the CUDA kernels do, on the host: the same phases, one thread after the other, against a stable sort
// and against the CPU kernels. Device memory is poisoned first and allocated to the element.
#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "check.h"
#include "kernels.h"
#include "supermask/chunk.h"
#include "supermask/draws.h"
#include "supermask/group.h"
#include "supermask/groups.h"
#include "supermask/items.h"
#include "supermask/ranking.h"
#include "supermask/segment.h"

using namespace supermask;

namespace {

template <class T>
std::vector<T> poisoned(std::size_t count) {
  std::vector<T> memory(count);
  if (count) std::memset(static_cast<void*>(memory.data()), 0xA5, count * sizeof(T));
  return memory;
}

// std::vector<bool> has no bools.
struct Mask {
  explicit Mask(int64_t count) : bytes(poisoned<uint8_t>(count)) {}
  bool* data() { return reinterpret_cast<bool*>(bytes.data()); }
  std::vector<uint8_t> bytes;
};

template <class Float>
Array array_of(std::vector<Float>& values) {
  return contiguous_array(values.data(), sizeof(Float) == 8 ? Dtype::float64 : Dtype::float32,
                          static_cast<int64_t>(values.size()));
}

template <class Float>
std::vector<uint8_t> sorted_mask(const std::vector<Float>& scores, int64_t keep,
                                 Ranking ranking = Ranking::magnitude) {
  std::vector<int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return key_of(scores[a], ranking) > key_of(scores[b], ranking);
  });
  std::vector<uint8_t> mask(scores.size());
  for (int64_t i = 0; i < keep; ++i) mask[order[i]] = 1;
  return mask;
}

enum Kind { uniform, rounded, equal, zeros, denormal, ascending, heavy, skewed, fourfold, kinds };

template <class Float>
std::vector<Float> draw_scores(int kind, int64_t count, uint64_t seed) {
  std::vector<Float> scores(count);
  for (int64_t i = 0; i < count; ++i) {
    const float value = unit_uniform(random_word(seed * 1000003 + (kind == fourfold ? i / 4 : i)));
    switch (kind) {
      case rounded:
        scores[i] = static_cast<int>(value * 8);
        break;
      case equal:
        scores[i] = Float(-0.5);
        break;
      case zeros:
        scores[i] = value > 0 ? Float(0) : -Float(0);
        break;
      case denormal:
        scores[i] = static_cast<int>(value * 999) * std::numeric_limits<Float>::denorm_min();
        break;
      case ascending:
        scores[i] = static_cast<Float>(i) / count;
        break;
      case heavy:
        scores[i] = Float(value) * value * value * value * value * 1e6f;
        break;
      case skewed:
        scores[i] = i < count / 10 ? value + 10 : value * 1e-3f;
        break;
      default:
        scores[i] = value;
    }
  }
  return scores;
}

// --- within a tensor

struct Memory {
  explicit Memory(const Segment& segment)
      : tiles(poisoned<Tile>(segment.tiles())), slots(poisoned<uint64_t>(segment.tiles() * kSlots)) {}
  std::vector<Tile> tiles;
  std::vector<uint64_t> slots;
};

// `groups`: how many rank what the window missed; 0 leaves it to the group that settles.
template <class Item, class Rule>
bool select_within(const Item& item, const Rule& rule, const Segment& segment, Hint& hint, bool reversed,
                   int groups = 0) {
  Memory memory(segment);
  const SerialGroup small = {256, reversed}, large = {kSettlingThreads, reversed};
  for (int64_t t = 0; t < segment.tiles(); ++t) {
    Tile tile;
    const int64_t number = reversed ? segment.tiles() - 1 - t : t, begin = number * kTileElements;
    const int count = static_cast<int>(std::min<int64_t>(kTileElements, segment.numel - begin));
    classify_tile(small, tile, item, rule, first_window(segment, hint), begin, count,
                  memory.slots.data() + number * kSlots, memory.tiles.data() + number);
  }
  Settling shared;
  unsigned missed = 77;
  settle_segment(large, shared, item, segment, memory.tiles.data(), memory.slots.data(), &hint,
                 groups ? &missed : nullptr);
  if (!groups) return !shared.hit;
  expect(missed == (shared.hit ? 0 : 1), "a miss is told");
  if (!missed) return false;
  std::vector<RankedSegment<float>> state = poisoned<RankedSegment<float>>(1);
  Histogram histogram;
  rank_segment(SerialGrid{groups, small}, histogram, state[0], item, segment, &hint);
  return true;
}

// Whoever ranks what a window missed, mask and hint are the same.
void test_misses(int64_t count, int64_t keep, bool infinite) {
  std::vector<float> scores = draw_scores<float>(rounded, count, 21);
  if (infinite) scores[count / 3] = std::numeric_limits<float>::infinity();
  const Segment segment = {keep, count, 0};
  Hint alone = {key_of(1e-20f), kNarrowest};
  Mask expected(count);
  const bool missed =
      select_within(ScoreItem{array_of(scores), expected.data()}, NoRule{}, segment, alone, false);
  expect(infinite || missed == (keep > 0 && keep < count), "a hint far off misses");
  expect(expected.bytes == sorted_mask(scores, keep), "the mask after a miss");
  for (const int groups : {1, 3, 8}) {
    Hint hint = {key_of(1e-20f), kNarrowest};
    Mask mask(count);
    select_within(ScoreItem{array_of(scores), mask.data()}, NoRule{}, segment, hint, groups == 3, groups);
    expect(mask.bytes == expected.bytes, "the mask of many groups");
    expect(hint.key == alone.key && hint.spread == alone.spread, "and their hint");
  }
}

void test_select_within(int kind, int64_t count, int64_t keep, uint64_t seed) {
  std::vector<float> scores = draw_scores<float>(kind, count, seed);
  const Segment segment = {keep, count, 0};
  Hint hint = {0, 0};
  const Hint nonsense = {static_cast<int64_t>(random_word(seed)) << (seed % 33), -5};
  for (int round = 0; round < 4; ++round) {
    Mask mask(count);
    if (round == 3) hint = nonsense;
    select_within(ScoreItem{array_of(scores), mask.data()}, NoRule{}, segment, hint, round % 2);
    expect(mask.bytes == sorted_mask(scores, keep), "selection within a tensor");
    if (round == 0 && keep > 0 && keep < count) {
      std::vector<uint32_t> keys(count);
      std::transform(scores.begin(), scores.end(), keys.begin(), [](float score) { return key_of(score); });
      std::nth_element(keys.begin(), keys.begin() + keep - 1, keys.end(), std::greater<uint32_t>());
      expect(hint.key == keys[keep - 1], "the first hint is the key of the cut");
    }
    for (int64_t i = 0; i < count; ++i) scores[i] *= 1.0f + 1e-4f * unit_uniform(random_word(seed + i / 4));
  }
}

// The hint of a first call is one that the second can use, and the second then ranks candidates alone.
void test_hints_hit() {
  const int64_t count = 40000, keep = 12000;
  std::vector<float> scores = draw_scores<float>(uniform, count, 7);
  const Segment segment = {keep, count, 0};
  Hint hint = {0, 0};
  Mask mask(count);
  select_within(ScoreItem{array_of(scores), mask.data()}, NoRule{}, segment, hint, false);
  std::vector<float> magnitudes(count);
  std::transform(scores.begin(), scores.end(), magnitudes.begin(), [](float s) { return s < 0 ? -s : s; });
  std::nth_element(magnitudes.begin(), magnitudes.begin() + keep - 1, magnitudes.end(),
                   std::greater<float>());
  expect(hint.key == key_of(magnitudes[keep - 1]) && hint.spread == kFirst, "the hint is the cut");
  const Window<uint32_t> window = first_window(segment, hint);
  int64_t above = 0, inside = 0;
  for (const float score : scores) {
    above += key_of(score) >= window.high;
    inside += key_of(score) >= window.low && key_of(score) < window.high;
  }
  expect(above < keep && above + inside >= keep && inside < count / 20,
         "the window holds the cut and little else");
}

void test_windows() {
  for (uint64_t i = 0; i < 20000; ++i) {
    const Hint hint = {random_word(2 * i) >> (i % 32), random_word(2 * i + 1) >> (i % 17)};
    const Window<uint32_t> window = window_of(hint);
    const bool around =
        window.low <= hint.key && hint.key < window.high && window.high - window.low <= 2 * kWidest;
    expect(plausible(hint) ? around : window.low == window.high, "a window is around its hint");
    expect(window.high <= Keys<float>::infinity, "and among the finite");
  }
}

void test_not_finite() {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const int64_t count : {int64_t{1}, int64_t{3000}, int64_t{20000}})
      for (const int64_t keep : {int64_t{0}, count / 2, count}) {
        std::vector<float> scores = draw_scores<float>(uniform, count, 3);
        scores[count / 2] = bad;
        Hint hint = {key_of(0.5f), kFirst};
        Mask mask(count);
        select_within(ScoreItem{array_of(scores), mask.data()}, NoRule{}, {keep, count, 0}, hint, false);
        expect(hint.key == kNotFinite, "a score that is not finite is marked");
        expect(mask.bytes == sorted_mask(scores, keep), "and its mask is exact all the same");
        scores[count / 2] = 0;
        select_within(ScoreItem{array_of(scores), mask.data()}, NoRule{}, {keep, count, 0}, hint, false);
        expect(hint.key == kNotFinite, "for good");
      }
}

void test_step(int64_t rows, int64_t columns, const Sgd& rule, bool momentum, bool transposed, bool alike) {
  const int64_t count = rows * columns;
  std::vector<float> grad = draw_scores<float>(uniform, count, 11),
                     weight = draw_scores<float>(uniform, count, 12);
  std::vector<float> scores = draw_scores<float>(rounded, count, 13),
                     velocity = draw_scores<float>(uniform, count, 14);
  std::vector<BFloat16> out = poisoned<BFloat16>(count);
  std::vector<float> theirs = scores, their_velocity = velocity, received = grad;
  Mask mask(count);
  Array target = {out.data(), Dtype::bfloat16, {}};
  const std::vector<int64_t> sizes = {rows, columns};
  make_layout(sizes, transposed ? std::vector<int64_t>{1, rows} : std::vector<int64_t>{columns, 1},
              target.layout);
  const auto place_of_weight = [&](int64_t i) { return transposed ? i % columns * rows + i / columns : i; };
  Array gradient = array_of(received);
  if (alike) {
    gradient.layout = target.layout;
    for (int64_t i = 0; i < count; ++i) received[place_of_weight(i)] = grad[i];
  }
  const StepItem item = {
      target,      gradient, weight.data(), scores.data(), momentum ? velocity.data() : nullptr,
      mask.data(), alike};
  Hint hint = {0, 0};
  const float lr = -rule.negative_lr;
  for (int step = 0; step < 3; ++step) {
    Sgd own = rule;
    if (step == 1) own.negative_lr = 77, own.lr = &lr;  // the rate in memory is the one that counts
    for (int64_t begin = 0; begin < count; begin += kTile)
      kernels().edge_popup_sgd(rule, grad.data() + begin, weight.data() + begin,
                               std::min(kTile, count - begin), theirs.data() + begin,
                               momentum ? their_velocity.data() + begin : nullptr);
    const int64_t keep = count / 3;
    select_within(item, own, {keep, count, 0}, hint, step % 2);
    expect(scores == theirs && velocity == their_velocity, "the step of the CPU kernels");
    const std::vector<uint8_t> expected = sorted_mask(scores, keep);
    expect(mask.bytes == expected, "the mask of a step");
    for (int64_t i = 0; i < count; ++i) {
      BFloat16 effective;
      from_float(masked_weight(weight[i], expected[i]), effective);
      expect(out[place_of_weight(i)].bits == effective.bits, "the masked weight of a step");
    }
  }
}

// --- over tensors

template <class Float>
void test_ranking(int kind, const std::vector<int64_t>& sizes, int64_t keep, uint64_t seed, bool infinite,
                  Ranking ranking, bool floor) {
  const int64_t total = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  std::vector<Float> all = draw_scores<Float>(kind, total, seed);
  if (infinite)
    all[total / 2] =
        seed % 3 ? -std::numeric_limits<Float>::infinity() : std::numeric_limits<Float>::quiet_NaN();
  std::vector<std::vector<Float>> tensors;
  std::vector<Mask> masks;
  for (int64_t begin = 0; const int64_t size : sizes) {
    tensors.emplace_back(all.begin() + begin, all.begin() + begin + size);
    masks.emplace_back(size);
    begin += size;
  }
  using Place = typename Places<Float>::Place;
  std::vector<RankedSegment<Float>> memory = poisoned<RankedSegment<Float>>(1);
  const SerialGroup group = {256, seed % 2 == 1};
  Histogram histogram;
  const auto for_stretches = [&](auto body) {
    for (uint32_t base = 0, t = 0; t < sizes.size(); base += static_cast<uint32_t>(sizes[t++]))
      for (int64_t begin = 0; begin < sizes[t]; begin += kStretch)
        body(
            t, begin, static_cast<int>(std::min<int64_t>(kStretch, sizes[t] - begin)),
            base + static_cast<uint32_t>(begin), [&, begin, t](int64_t i) { return tensors[t][begin + i]; });
  };
  // The best of every tensor, those with none left out.
  std::vector<Place> bests, in_order(sizes.size());
  std::vector<Place> shared = poisoned<Place>(group.threads);
  if (floor) {
    std::vector<std::vector<Place>> of_stretch(sizes.size());
    for_stretches([&](uint32_t t, int64_t, int count, uint32_t first, auto read) {
      find_highest(
          group, shared.data(), count,
          [&](int64_t i) { return place_of(key_of(read(i), ranking), first + static_cast<uint32_t>(i)); },
          &of_stretch[t].emplace_back());
    });
    for (size_t t = 0; t < sizes.size(); ++t) {
      if (!sizes[t]) continue;
      const std::vector<Place>& places = of_stretch[t];
      find_highest(
          group, shared.data(), static_cast<int64_t>(places.size()), [&](int64_t i) { return places[i]; },
          &in_order[t]);
      bests.push_back(in_order[t]);
    }
    keep = std::max(keep, static_cast<int64_t>(bests.size()));
  }
  const int count_bests = static_cast<int>(bests.size());
  start_ranking(group, memory[0], keep - count_bests, total - count_bests);
  for (int pass = 0; pass < kPasses<Float>; ++pass) {
    for_stretches([&](uint32_t, int64_t, int count, uint32_t first, auto read) {
      count_digits(group, histogram, memory[0], read, ranking, count, first, pass == 0);
    });
    end_pass(group, histogram, memory[0], bests.data(), count_bests);
  }
  expect(memory[0].search.done && (memory[0].infinite != 0) == infinite, "the end of a ranking");
  for_stretches([&](uint32_t t, int64_t begin, int count, uint32_t first, auto read) {
    write_mask(group, memory[0], read, ranking, count, first, floor ? &in_order[t] : nullptr,
               [&](int64_t i, bool kept) { masks[t].data()[begin + i] = kept; });
  });
  std::vector<uint8_t> together;
  for (const Mask& mask : masks) together.insert(together.end(), mask.bytes.begin(), mask.bytes.end());
  std::vector<Float> ranked = all;
  if (floor)  // raised above all others, infinities and all
    for (int64_t begin = 0; const int64_t size : sizes) {
      if (!size) continue;
      const std::vector<Float> own(all.begin() + begin, all.begin() + begin + size);
      const std::vector<uint8_t> first = sorted_mask(own, 1, ranking);
      ranked[begin + (std::find(first.begin(), first.end(), 1) - first.begin())] =
          std::numeric_limits<Float>::quiet_NaN();
      begin += size;
    }
  expect(together == sorted_mask(ranked, keep, ranking), "selection over tensors");
}

void test_groups(int kind, int64_t outputs, int64_t inputs, int64_t inner, int64_t n, int64_t m,
                 Ranking ranking) {
  const int64_t count = outputs * inputs * inner;
  std::vector<float> scores = draw_scores<float>(kind, count, 5);
  Mask mask(count);
  const GroupedItem item = {array_of(scores), mask.data(), outputs, inputs, inner, nullptr};
  for (int64_t group = item.groups(m); group-- > 0;)
    expect(select_group<float>(item, group, n, m, ranking), "finite groups");
  for (int64_t row = 0; row < outputs; ++row)
    for (int64_t k = 0; k < inner; ++k)
      for (int64_t first = 0; first < inputs; first += m) {
        std::vector<float> group;
        std::vector<uint8_t> kept;
        for (int64_t i = first; i < std::min(inputs, first + m); ++i) {
          const int64_t at = (row * inputs + i) * inner + k;
          group.push_back(scores[at]);
          kept.push_back(mask.bytes[at]);
        }
        const int64_t keep = kept_of_group(static_cast<int64_t>(group.size()), n, m);
        expect(kept == sorted_mask(group, keep, ranking), "selection within a group");
      }
  scores[count - 1] = std::numeric_limits<float>::infinity();
  expect(!select_group<float>(item, item.groups(m) - 1, n, m, ranking), "an infinity in the last group");
}

// --- the rest

void test_digits() {
  for (const int total : {Places<float>::bits, Places<double>::bits}) {
    int rest = total, passes = 0, key_ends = 0;
    while (rest > 0) {
      expect(digit_bits(rest) >= 1 && (1 << digit_bits(rest)) <= kBins, "a digit fits the bins");
      rest -= digit_bits(rest);
      key_ends += rest == 32;
      ++passes;
    }
    expect(rest == 0 && key_ends == 1, "digits end with the key");
    expect(passes == (total == Places<float>::bits ? kPasses<float> : kPasses<double>), "number of passes");
  }
}

template <Scheme kScheme>
void test_draws(void (*draw)(uint64_t, uint64_t, int64_t, float, float*), int per_block) {
  std::vector<float> expected(64 * per_block);
  draw(9, 3, 64, 0.3f, expected.data());
  for (int quad = 0; quad < 16 * per_block; ++quad) {
    const Four four = draw_four<kScheme>(9, 3 * per_block / 4 + quad, 0.3f);
    for (int i = 0; i < 4; ++i)
      expect(bits_of(four.value[i]) == bits_of(expected[4 * quad + i]), "the draws of the CPU kernels");
  }
}

void test_chunks() {
  const std::vector<int> items = [] {
    std::vector<int> blocks(1000);
    for (int i = 0; i < 1000; ++i) blocks[i] = static_cast<int>(random_word(i) % 5);
    return blocks;
  }();
  std::vector<int> seen;
  for_chunks(
      items, [](int blocks) { return blocks; },
      [&](const Chunk<int>& chunk, unsigned blocks) {
        for (unsigned block = 0; block < blocks; ++block) {
          const int i = chunk.item_of(block);
          expect(block >= chunk.first_block[i] && block < chunk.first_block[i + 1], "the item of a block");
          if (block == chunk.first_block[i]) seen.push_back(chunk.items[i]);
        }
      });
  std::vector<int> expected = items;
  std::erase(expected, 0);
  expect(seen == expected, "every item with blocks, once and in order");
}

}  // namespace

int main() {
  const int64_t sizes[] = {1, 2, 255, 256, 2047, 2048, 2049, 8191, 8193, 16384, 20011};
  uint64_t seed = 0;
  for (const int64_t count : sizes)
    for (int kind = 0; kind < kinds; ++kind)
      for (const int64_t keep : {int64_t{0}, int64_t{1}, count / 3, count - 1, count})
        test_select_within(kind, count, std::max<int64_t>(keep, 0), ++seed);
  test_hints_hit();
  test_windows();
  test_not_finite();
  for (const bool infinite : {false, true})
    for (const int64_t keep : {0, 1, 20000, 60000}) test_misses(60000, keep, infinite);
  for (int kind = 0; kind < kinds; ++kind)
    for (const double density : {0.0, 0.1, 0.5, 1.0})
      for (const bool infinite : {false, true}) {
        const std::vector<int64_t> shapes = {17, 0, 16384, 20000, 1};
        const int64_t keep = static_cast<int64_t>(density * 36402);
        for (const Ranking ranking : {Ranking::magnitude, Ranking::raw}) {
          test_ranking<float>(kind, shapes, keep, ++seed, infinite, ranking, false);
          test_ranking<double>(kind, shapes, keep, ++seed, infinite, ranking, false);
          if (infinite) continue;
          test_ranking<float>(kind, shapes, keep, ++seed, false, ranking, true);
          test_ranking<double>(kind, shapes, keep, ++seed, false, ranking, true);
        }
      }
  for (const bool nesterov : {false, true})
    for (const float decay : {0.0f, 1e-3f})
      for (const bool momentum : {false, true}) {
        if (nesterov && !momentum) continue;
        test_step(97, 211, {-0.1f, momentum ? 0.9f : 0.0f, 1.0f, decay, nesterov}, momentum, decay != 0,
                  nesterov);
        test_step(3, 5, {-0.1f, momentum ? 0.9f : 0.0f, 1.0f, decay, nesterov}, momentum, decay == 0, true);
      }
  for (const Ranking ranking : {Ranking::magnitude, Ranking::raw})
    for (int kind = 0; kind < kinds; ++kind) {
      test_groups(kind, 3, 16, 1, 2, 4, ranking);
      test_groups(kind, 5, 7, 9, 1, 4, ranking);
      test_groups(kind, 2, 3, 4, 3, 8, ranking);
    }
  test_digits();
  test_draws<Scheme::sign>(kernels().sign, 128);
  test_draws<Scheme::uniform>(kernels().uniform, 4);
  test_draws<Scheme::normal>(kernels().normal, 4);
  test_chunks();
  return finish();
}
