// Properties of the shared headers and of the inner loops of a search step, each against a plain computation in double or in
// integers. Buffers are allocated to the element, so that the sanitizers see every step over an end.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "check.h"
#include "kernels.h"
#include "supermask/bits.h"
#include "supermask/distributions.h"

using namespace supermask;

namespace {

// Known answers of the authors' Random123 library.
void test_philox() {
  const PhiloxBlock zeros = philox(0, 0);
  expect(zeros.word[0] == 0x6627e8d5u && zeros.word[1] == 0xe169c58du && zeros.word[2] == 0xbc57ac4cu &&
             zeros.word[3] == 0x9b00dbd8u,
         "philox of zero counter and key");
}

void test_normals() {
  for (uint64_t i = 0; i < 20000; ++i) {
    const uint32_t word = random_word(i);
    const double u = static_cast<double>(static_cast<float>(word | 1u)) / 4294967296.0;
    expect(std::abs(normal_radius(word) - std::sqrt(std::max(0.0, -2 * std::log(u)))) < 2e-6, "radius");
    const Point point = unit_circle(word);
    expect(std::abs(point.x * point.x + point.y * point.y - 1) < 1e-6, "a point on the circle");
  }
  expect(!std::signbit(normal_radius(0xFFFFFFFFu)) && normal_radius(0xFFFFFFFFu) == 0, "radius of u = 1 is +0");
}

// Every 16-bit pattern survives the way through float32, and random floats round to a nearest neighbour.
template <class Half>
void test_half(int infinity, const char* name) {
  for (int bits = 0; bits < 1 << 16; ++bits) {
    Half half = {static_cast<uint16_t>(bits)}, back;
    const float value = to_float(half);
    from_float(value, back);
    const bool nan = (bits & 0x7FFF) > infinity;
    expect(nan ? std::isnan(value) && (back.bits & 0x7FFF) > infinity : back.bits == bits, name);
  }
  for (uint64_t i = 0; i < 200000; ++i) {
    const float value = float_of(random_word(i));
    if (!std::isfinite(value)) continue;
    Half nearest;
    from_float(value, nearest);
    const int magnitude = nearest.bits & 0x7FFF;
    if (magnitude >= infinity) continue;
    const double error = std::abs(to_float(nearest) - static_cast<double>(value));
    for (const int other : {magnitude - 1, magnitude + 1}) {
      if (other < 0 || other >= infinity) continue;
      const Half half = {static_cast<uint16_t>(other | (nearest.bits & 0x8000))};
      const double distance = std::abs(to_float(half) - static_cast<double>(value));
      expect(error < distance || (error == distance && nearest.bits % 2 == 0), name);
    }
  }
}

void test_keys() {
  for (uint64_t i = 0; i < 20000; ++i) {
    const float a = float_of(random_word(2 * i)), b = float_of(random_word(2 * i + 1));
    if (std::isnan(a) || std::isnan(b)) continue;
    expect((key_of(a) < key_of(b)) == (std::abs(a) < std::abs(b)), "keys in the order of magnitudes");
    const double c = a, d = b;
    expect((key_of(c) < key_of(d)) == (std::abs(c) < std::abs(d)), "keys of doubles");
  }
  expect(key_of(-0.0f) == 0 && key_of(std::numeric_limits<float>::denorm_min()) == 1, "zero and denormals");
  for (uint64_t i = 0; i < 20000; ++i) {
    const float a = float_of(random_word(2 * i)), b = float_of(random_word(2 * i + 1));
    const double c = a, d = b;
    expect((raw_key_of(a) >= Keys<float>::raw_infinity) == !std::isfinite(a), "raw keys of what is not finite");
    expect((raw_key_of(c) >= Keys<double>::raw_infinity) == !std::isfinite(c), "the same in doubles");
    if (!std::isfinite(a) || !std::isfinite(b)) continue;
    expect((raw_key_of(a) < raw_key_of(b)) == (a < b), "raw keys in the order of the scores");
    expect((raw_key_of(c) < raw_key_of(d)) == (c < d), "raw keys of doubles");
  }
  for (const float odd : {INFINITY, -INFINITY, std::nanf(""), -std::nanf("")}) {
    expect(raw_key_of(odd) >= Keys<float>::raw_infinity, "infinities and NaN of either sign");
    expect(raw_key_of(double{odd}) >= Keys<double>::raw_infinity, "the same in doubles");
  }
  const float most = std::numeric_limits<float>::max();
  expect(raw_key_of(-0.0f) == raw_key_of(0.0f) && raw_key_of(-most) == 0 &&
             raw_key_of(most) + 1 == Keys<float>::raw_infinity, "zeros, and the ends of the raw keys");
  expect(key_of(std::nanf("")) >= Keys<float>::infinity, "NaN counts as not finite");
}

template <class Float>
typename Keys<Float>::Key key_under(Ranking ranking, Float score) {
  return ranking == Ranking::raw ? raw_key_of(score) : key_of(score);
}

template <class Float>
void test_classify(int64_t count, uint64_t seed, Ranking ranking) {
  using Key = typename Keys<Float>::Key;
  std::vector<Float> scores(count);
  for (int64_t i = 0; i < count; ++i)
    scores[i] = static_cast<Float>(static_cast<int32_t>(random_word(seed + i)) >> 20) / 1000;
  const Float low = ranking == Ranking::raw ? -0.1 : 0.5;
  const Window<Key> window = {key_under(ranking, low), key_under(ranking, Float(seed % 3 ? low + 0.1 : 9.0))};
  bool* mask = new bool[count];
  uint16_t* where = new uint16_t[count];
  Key* keys = new Key[count];
  const TileCounts counts =
      rank_kernels<Float>(ranking).classify(scores.data(), count, window, mask, 7, where, keys);
  int64_t above = 0, found = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Key key = key_under(ranking, scores[i]);
    above += key >= window.high;
    expect(mask[i] == (key >= window.high), "mask of a tile");
    if (key < window.low || key >= window.high) continue;
    expect(found < counts.candidates && where[found] == 7 + i && keys[found] == key, "candidate");
    ++found;
  }
  expect(counts.finite && counts.above == above && counts.candidates == found, "counts of a tile");
  std::vector<int64_t> bins(2048);
  int shift = 0;
  while ((window.high - window.low - 1) >> shift >= 2048) ++shift;
  rank_kernels<Float>(ranking).histogram(scores.data(), count, window, shift, bins.data());
  int64_t total = 0;
  for (const int64_t bin : bins) total += bin;
  expect(total == found, "histogram of the window");
  delete[] mask;
  delete[] where;
  delete[] keys;
}

// Against counting, for every score, how many of its group rank before it.
template <class Float>
void test_n_of_m(int64_t slabs, int64_t rows, int64_t inner, int64_t keep, Ranking ranking) {
  const int64_t count = slabs * rows * inner;
  std::vector<Float> scores(count);
  for (int64_t i = 0; i < count; ++i)
    scores[i] = static_cast<Float>(static_cast<int32_t>(random_word(i + rows)) >> 28) / 4;  // many are equal
  bool* mask = new bool[count];
  const RankKernels<Float>& table = rank_kernels<Float>(ranking);
  expect(table.n_of_m(scores.data(), slabs, rows, inner, keep, mask), "finite groups");
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = i / inner % rows, top = i - row * inner;
    int64_t ahead = 0;
    for (int64_t other = 0; other < rows; ++other) {
      const Float theirs = scores[top + other * inner], own = scores[i];
      const Float a = ranking == Ranking::raw ? theirs : std::abs(theirs);
      const Float b = ranking == Ranking::raw ? own : std::abs(own);
      ahead += a > b || (a == b && other < row);
    }
    expect(mask[i] == (ahead < keep), "n of m");
  }
  for (const Float bad : {Float(INFINITY), Float(-INFINITY), Float(NAN)})
    for (const int64_t place : {int64_t{0}, count - 1}) {
      std::vector<Float> broken = scores;
      broken[place] = bad;
      expect(!table.n_of_m(broken.data(), slabs, rows, inner, keep, mask), "a group that is not finite");
    }
  delete[] mask;
}

void test_step(int64_t count) {
  std::vector<float> grad(count), weight(count), score(count), velocity(count), out(count);
  for (int64_t i = 0; i < count; ++i) {
    grad[i] = unit_uniform(random_word(4 * i));
    weight[i] = unit_uniform(random_word(4 * i + 1));
    score[i] = i % 7 ? unit_uniform(random_word(4 * i + 2)) : 0.0f;
    velocity[i] = unit_uniform(random_word(4 * i + 3));
  }
  const Sgd rule = {-0.1f, 0.9f, 1.0f, 1e-3f, true};
  std::vector<float> moved = score, carried = velocity;
  kernels().edge_popup_sgd(rule, grad.data(), weight.data(), count, moved.data(), carried.data());
  for (int64_t i = 0; i < count; ++i) {
    const double g = double(grad[i]) * weight[i] * ((score[i] > 0) - (score[i] < 0)) + 1e-3 * score[i];
    const double v = 0.9 * velocity[i] + g;
    expect(std::abs(carried[i] - v) < 1e-6, "velocity");
    expect(std::abs(moved[i] - (score[i] - 0.1 * (g + 0.9 * v))) < 1e-6, "score");
  }
  moved = score;
  kernels().signed_supermask_sgd({-0.1f, 0, 1.0f, 0, false}, grad.data(), weight.data(), count, moved.data(), nullptr);
  kernels().signed_weights(weight.data(), moved.data(), count, out.data());
  for (int64_t i = 0; i < count; ++i) {
    expect(std::abs(moved[i] - (score[i] - 0.1 * double(grad[i]) * weight[i])) < 1e-6, "score of a signed supermask");
    expect(out[i] == (moved[i] < 0 ? -weight[i] : weight[i]), "a signed weight");
  }
  double squares = 0;
  for (const float value : grad) squares += double(value) * value;
  expect(std::abs(kernels().sum_of_squares(grad.data(), count) - squares) <= 1e-12 * squares, "a sum of squares");
  kernels().scale(grad.data(), 0.3f, count, out.data());
  for (int64_t i = 0; i < count; ++i) expect(out[i] == grad[i] * 0.3f, "a scaled value");
  expect(kernels().all_finite(moved.data(), count), "finite scores");
  for (int64_t i = 0; i < count; ++i)
    for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()}) {
      std::vector<float> broken = moved;
      broken[i] = bad;
      expect(!kernels().all_finite(broken.data(), count), "a score that is not finite");
    }
}

// Every bit is that of the plain write, whatever was there: nothing right, all right, or all but one bit.
void test_refreshed_weights(int64_t count) {
  std::vector<float> weight(count), expected(count);
  const std::unique_ptr<bool[]> mask(new bool[count]);
  for (int64_t i = 0; i < count; ++i) {
    weight[i] = unit_uniform(random_word(i)) - 0.5f;
    mask[i] = random_word(i + count) & 1u;
  }
  kernels().float32.masked_weights(weight.data(), mask.get(), count, expected.data());
  for (int64_t i = 0; i < count; ++i) expect(expected[i] == (mask[i] ? weight[i] : 0.0f), "a masked weight");
  std::vector<float> cleared = weight;
  kernels().clear_where(mask.get(), count, cleared.data());
  for (int64_t i = 0; i < count; ++i)
    expect(mask[i] ? !std::memcmp(&cleared[i], "\0\0\0\0", 4) : !std::memcmp(&cleared[i], &weight[i], 4), "a cleared value");
  const auto check_from = [&](std::vector<float> out) {
    kernels().refresh_masked(weight.data(), mask.get(), count, out.data());
    expect(!count || !std::memcmp(out.data(), expected.data(), sizeof(float) * count), "a refreshed weight");
  };
  check_from(std::vector<float>(count, std::numeric_limits<float>::quiet_NaN()));
  check_from(expected);
  for (int64_t i = 0; i < count; ++i) {
    std::vector<float> out = expected;
    out[i] = expected[i] == 0 ? -0.0f : -expected[i];
    check_from(out);
  }
}

void test_packing(int64_t bytes) {
  bool* mask = new bool[8 * bytes];
  bool* back = new bool[8 * bytes];
  uint8_t* packed = new uint8_t[bytes];
  for (int64_t i = 0; i < 8 * bytes; ++i) mask[i] = random_word(i) & 1u;
  kernels().pack(mask, bytes, packed);
  for (int64_t i = 0; i < 8 * bytes; ++i) expect(((packed[i / 8] >> (i % 8)) & 1) == mask[i], "packed bit");
  kernels().unpack(packed, bytes, back);
  expect(std::equal(mask, mask + 8 * bytes, back), "unpacked mask");
  delete[] mask;
  delete[] back;
  delete[] packed;
}

void test_generator(int64_t blocks) {
  std::vector<float> values(4 * blocks), signs(128 * blocks);
  kernels().uniform(3, 5, blocks, 2.0f, values.data());
  for (int64_t i = 0; i < 4 * blocks; ++i)
    expect(values[i] == unit_uniform(philox(3, 5 + i / 4).word[i % 4]) * 2.0f, "uniform");
  kernels().normal(3, 5, blocks, 1.0f, values.data());
  for (int64_t b = 0; b < blocks; ++b) {
    const PhiloxBlock c = philox(3, 5 + b);
    const Point point = unit_normals(c.word[2], c.word[3]);
    expect(values[4 * b + 2] == point.x && values[4 * b + 3] == point.y, "normal");
  }
  std::vector<int64_t> words(4 * blocks);
  kernels().words(3, 5, blocks, words.data());
  for (int64_t i = 0; i < 4 * blocks; ++i) expect(words[i] == philox(3, 5 + i / 4).word[i % 4], "words");
  kernels().sign(3, 5, blocks, 0.5f, signs.data());
  for (int64_t i = 0; i < 128 * blocks; ++i)
    expect(signs[i] == 0.5f * unit_sign(philox(3, 5 + i / 128).word[i / 32 % 4], i % 32), "sign");
}

// --- packed layers: small integers, so that every order of the sums gives the same bits

}  // namespace

int main() {
  std::printf("%s\n", kernels().name);
  test_philox();
  test_normals();
  test_half<BFloat16>(0x7F80, "bfloat16");
  test_half<Float16>(0x7C00, "float16");
  test_keys();
  for (const int64_t count : {0, 1, 7, 8, 15, 16, 17, 31, 33, 1000, 2047, 2048})
    for (uint64_t seed = 0; seed < 6; ++seed) {
      for (const Ranking ranking : {Ranking::magnitude, Ranking::raw}) {
        test_classify<float>(count, 1000 * seed, ranking);
        test_classify<double>(count, 1000 * seed, ranking);
      }
      test_step(count);
    }
  for (const int64_t count : {0, 1, 15, 16, 17, 64, 100}) test_refreshed_weights(count);
  for (const Ranking ranking : {Ranking::magnitude, Ranking::raw})
    for (const int64_t rows : {1, 3, 4, 8, 16, 700})
      for (const int64_t inner : {1, 3, 9})
        for (const int64_t slabs : {1, 7, 70}) {
          if (rows * inner * slabs > 5000) continue;
          test_n_of_m<float>(slabs, rows, inner, (rows + 1) / 2, ranking);
          test_n_of_m<double>(slabs, rows, inner, 1, ranking);
        }
  for (const int64_t count : {0, 1, 2, 7, 63, 64, 65, 130}) {
    test_packing(count);
    test_generator(count);
  }
  return finish();
}
