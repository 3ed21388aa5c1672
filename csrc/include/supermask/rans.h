// Mask bits at their entropy: rANS of two symbols (Duda, arXiv:1311.2540), its states interleaved over one
// stream of words (Giesen, arXiv:1402.3392). docs/ticket-format.md has the layout of the code. Integers only,
// so there is one version for every instruction set.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace supermask {

constexpr int kRansBits = 12;
constexpr uint32_t kRansTotal = 1u << kRansBits;  // what the frequencies of one and zero add up to
constexpr uint32_t kRansLow = 1u << 16;           // a state lies in [2^16, 2^32)
constexpr int64_t kRansPerLane = 8192;            // most bits that one state codes

inline int64_t rans_lanes(int64_t numel) { return (numel + kRansPerLane - 1) / kRansPerLane; }

// The frequency of ones: never 0 and never all, so that both symbols have a code.
inline uint32_t rans_frequency(int64_t kept, int64_t numel) {
  const int64_t rounded = (2 * kRansTotal * kept + numel) / (2 * numel);
  return static_cast<uint32_t>(std::clamp<int64_t>(rounded, 1, kRansTotal - 1));
}

// Bytes of the head: the frequency, and the states that decoding begins with.
inline int64_t rans_head(int64_t numel) { return 2 + 4 * rans_lanes(numel); }

namespace rans {

template <class Word>
Word load(const uint8_t* from) {
  uint32_t value = 0;
  for (size_t i = 0; i < sizeof(Word); ++i) value |= static_cast<uint32_t>(from[i]) << (8 * i);
  return static_cast<Word>(value);
}

template <class Word>
void append(std::vector<uint8_t>& to, Word word) {
  for (size_t i = 0; i < sizeof(Word); ++i) to.push_back(static_cast<uint8_t>(word >> (8 * i)));
}

}  // namespace rans

// The code of `numel` > 0 bits.
inline std::vector<uint8_t> rans_encode(const bool* mask, int64_t numel) {
  const uint32_t ones = rans_frequency(std::count(mask, mask + numel, true), numel);
  const uint32_t start[2] = {ones, 0}, frequency[2] = {kRansTotal - ones, ones};
  const int64_t lanes = rans_lanes(numel);
  std::vector<uint32_t> states(lanes, kRansLow);
  std::vector<uint16_t> words;  // the last one read first
  for (int64_t i = numel, lane = (numel - 1) % lanes; i-- > 0; lane = (lane ? lane : lanes) - 1) {
    const bool bit = mask[i];
    uint32_t state = states[lane];
    if (state >= frequency[bit] << (32 - kRansBits)) {
      words.push_back(static_cast<uint16_t>(state));
      state >>= 16;
    }
    states[lane] = (state / frequency[bit] << kRansBits) + state % frequency[bit] + start[bit];
  }
  std::vector<uint8_t> code;
  code.reserve(rans_head(numel) + 2 * words.size());
  rans::append(code, static_cast<uint16_t>(ones));
  for (const uint32_t state : states) rans::append(code, state);
  for (auto word = words.rbegin(); word != words.rend(); ++word) rans::append(code, *word);
  return code;
}

// Fills `mask` with `numel` > 0 bits, and returns null; or says what is wrong with the code. What it accepts is
// what rans_encode makes of the mask, byte for byte.
inline const char* rans_decode(const uint8_t* code, int64_t size, int64_t numel, bool* mask) {
  const int64_t lanes = rans_lanes(numel), head = rans_head(numel);
  if (size < head || (size - head) % 2) return "has not the length of its states and words";
  const uint32_t ones = rans::load<uint16_t>(code);
  if (ones < 1 || ones >= kRansTotal) return "has no frequency from 1 to 4095";
  std::vector<uint32_t> states(lanes);
  for (int64_t lane = 0; lane < lanes; ++lane) {
    states[lane] = rans::load<uint32_t>(code + 2 + 4 * lane);
    if (states[lane] < kRansLow) return "begins with a state below 2^16";
  }
  const uint8_t *word = code + head, *end = code + size;
  const auto step = [&](int64_t count, bool* bits, auto next) {
    for (int64_t lane = 0; lane < count; ++lane) {
      const uint32_t state = states[lane], slot = state % kRansTotal;
      const bool bit = slot < ones;
      bits[lane] = bit;
      const uint32_t frequency = bit ? ones : kRansTotal - ones;
      uint32_t moved = frequency * (state >> kRansBits) + slot - (bit ? 0 : ones);
      if (!next(moved)) return false;
      states[lane] = moved;
    }
    return true;
  };
  for (int64_t begin = 0; begin < numel; begin += lanes) {
    const int64_t count = std::min(lanes, numel - begin);
    bool sound = true;
    if (end - word >= 2 * count) {  // no lane reads more than one word in a step
      step(count, mask + begin, [&](uint32_t& state) {
        const bool low = state < kRansLow;
        const uint32_t longer = state << 16 | rans::load<uint16_t>(word);
        state = low ? longer : state;
        word += low ? 2 : 0;
        return true;
      });
    } else {
      sound = step(count, mask + begin, [&](uint32_t& state) {
        if (state >= kRansLow) return true;
        if (word == end) return false;
        state = state << 16 | rans::load<uint16_t>(word);
        word += 2;
        return true;
      });
    }
    if (!sound) return "ends before its bits do";
  }
  if (word != end) return "has words left over";
  for (const uint32_t state : states)
    if (state != kRansLow) return "does not end in the states that coding began with";
  if (ones != rans_frequency(std::count(mask, mask + numel, true), numel))
    return "has another frequency than its bits";
  return nullptr;
}

}  // namespace supermask
