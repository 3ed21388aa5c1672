// The code of masks: there and back, its length against the entropy, and streams that nobody encoded.
#include "supermask/rans.h"

#include <cmath>
#include <memory>
#include <string>

#include "check.h"

using namespace supermask;

namespace {

// vector<bool> has no data().
struct Bits {
  explicit Bits(int64_t size) : size(size), data(new bool[size]()) {}
  int64_t size;
  std::unique_ptr<bool[]> data;
};

Bits random_bits(int64_t size, double density, uint64_t seed) {
  Bits bits(size);
  for (int64_t i = 0; i < size; ++i) bits.data[i] = random_word((seed << 32) + i) < density * 4294967296.0;
  return bits;
}

std::string decode(const std::vector<uint8_t>& code, Bits& bits) {
  // A copy of just this size, so that the address sanitizer sees a read past its end.
  const std::unique_ptr<uint8_t[]> bytes(new uint8_t[code.size()]);
  std::copy(code.begin(), code.end(), bytes.get());
  const char* fault = rans_decode(bytes.get(), static_cast<int64_t>(code.size()), bits.size, bits.data.get());
  return fault ? fault : "";
}

void test_round_trip() {
  uint64_t seed = 0;
  for (const int64_t size : {1, 2, 7, 100, 8191, 8192, 8193, 16384, 100001})
    for (const double density : {0.0, 1e-4, 0.01, 0.1, 0.3, 0.5, 0.9, 0.9999, 1.0}) {
      const Bits bits = random_bits(size, density, ++seed);
      const std::vector<uint8_t> code = rans_encode(bits.data.get(), size);
      Bits found(size);
      expect(decode(code, found).empty(), "a code is sound");
      expect(std::equal(bits.data.get(), bits.data.get() + size, found.data.get()), "a mask comes back");
      // Each state costs two bytes more than it says of the bits, and rounding a little.
      const double p = std::count(bits.data.get(), bits.data.get() + size, true) / static_cast<double>(size);
      const double entropy = p > 0 && p < 1 ? -p * std::log2(p) - (1 - p) * std::log2(1 - p) : 0;
      const double bound = size * (entropy + 5e-4) / 8 + 4.0 * static_cast<double>(rans_lanes(size)) + 4;
      expect(static_cast<double>(code.size()) <= bound, "a code is no longer than the entropy and its head");
    }
}

// Whatever bytes are given: no read or write outside, and what is accepted is the code of what comes out.
void test_other_streams() {
  int accepted = 0;
  for (uint64_t trial = 0; trial < 20000; ++trial) {
    const int64_t size = 1 + random_word(9 * trial) % (trial % 50 ? 300 : 20000);
    const Bits bits = random_bits(size, (random_word(9 * trial + 1) % 1000) / 999.0, trial);
    std::vector<uint8_t> code = rans_encode(bits.data.get(), size);
    const uint32_t where = random_word(9 * trial + 2) % code.size();
    switch (random_word(9 * trial + 3) % 5) {
      case 0: code[where] ^= static_cast<uint8_t>(1u << (random_word(9 * trial + 4) % 8)); break;
      case 1: code.resize(where); break;
      case 2: code.insert(code.end(), 2 * (1 + where % 5), 0); break;
      case 3: std::swap(code[where], code[random_word(9 * trial + 5) % code.size()]); break;
      default:
        for (uint8_t& byte : code) byte = static_cast<uint8_t>(random_word(trial * 40000 + (&byte - &code[0])));
    }
    Bits found(size);
    if (!decode(code, found).empty()) continue;
    ++accepted;
    expect(rans_encode(found.data.get(), size) == code, "no two codes have one mask");
  }
  expect(accepted < 2000, "most of what is no code is refused");
}

}  // namespace

int main() {
  test_round_trip();
  test_other_streams();
  return finish();
}
