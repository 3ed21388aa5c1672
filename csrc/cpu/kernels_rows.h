// Products with weights +1, -1 and 0 from codes of triples, for 16 inputs side by side; see kernels.h. Included by
// kernels.cpp alone.
//
// A look-up (kernels_packed.h) moves the table's entries to 16 outputs; here an entry is a row, that of 16 inputs, and
// a code says where it lies. Adding it is one load, and no permutation: on Zen 4 that takes about a tenth less time
// with registers of 16 floats, and half with those of 8. Every sum has the bits that look-ups give it.
#pragma once

#include "kernels_packed.h"

namespace supermask {
namespace {

constexpr int64_t kTableRows = 32, kTableFloats = 16 * kTableRows;

// inputs[feature][16]. Row i of a triple's table, below 14, is d0 x0 + d1 x1 + d2 x2, where d are the digits of i in
// balanced ternary, and row 16 + i its negative; the others are no code's, and hold zeros.
void triple_rows(const float* inputs, int64_t triples, float* tables) {
  for (int64_t t = 0; t < triples; ++t, inputs += 48, tables += kTableFloats)
    for (int part = 0; part < kParts; ++part) {
      Floats terms[3][3];
      for (int k = 0; k < 3; ++k) {
        const Floats x = load_vector<Floats>(inputs + 16 * k + kLaneCount * part);
        for (int digit = -1; digit <= 1; ++digit) terms[k][digit + 1] = static_cast<float>(digit) * x;
      }
      float* row = tables + kLaneCount * part;
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i, row += 16) {
        const int low = (i + 1) % 3, middle = ((i - low + 1) / 3 + 1) % 3, high = i < 5 ? 1 : 2;
        const Floats sum = i < 14 ? terms[0][low] + terms[1][middle] + terms[2][high] : Floats{};
        store_vector(row, sum);
        store_vector(row + kTableFloats / 2, -sum);
      }
    }
}

constexpr int kAtOnce = kLaneCount / 2;  // outputs: as many sums as the registers hold, and enough to hide an addition

template <int kPlace>
inline void add_code(const uint32_t (&words)[kAtOnce], const float* rows, Floats (&sums)[kAtOnce][kParts]) {
#pragma GCC unroll 8
  for (int output = 0; output < kAtOnce; ++output) {
    const uint32_t word = words[output];
    const uint32_t bytes = (kPlace < 6 ? word << (6 - kPlace) : word >> (kPlace - 6)) & (64 * (kTableRows - 1));
    const char* row = reinterpret_cast<const char*>(rows) + bytes;
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      sums[output][part] += load_vector<Floats>(row + 4 * kLaneCount * part);
      settle(sums[output][part]);
    }
  }
}

// sums[group][16 outputs][16 inputs] += what the codes name; codes that lie `next` words ahead are asked for.
void add_rows(const uint32_t* codes, int64_t words, int64_t groups, const float* tables, float* sums, int64_t next) {
  const int64_t stride = 16 * groups;
  for (int64_t lane = 0; lane < stride; lane += kAtOnce, sums += 16 * kAtOnce) {
    Floats totals[kAtOnce][kParts];
#pragma GCC unroll 8
    for (int output = 0; output < kAtOnce; ++output)
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part)
        totals[output][part] = load_vector<Floats>(sums + 16 * output + kLaneCount * part);
    const uint32_t* own = codes + lane;
    const float* table = tables;
    for (int64_t word = 0; word < words; ++word, own += stride, table += 6 * kTableFloats) {
      __builtin_prefetch(own + next);
      uint32_t held[kAtOnce];
#pragma GCC unroll 8
      for (int output = 0; output < kAtOnce; ++output) {
        held[output] = own[output];
        asm volatile("" : "+r"(held[output]));  // else the compiler gathers them in a vector, and takes them out again
      }
      add_code<0>(held, table, totals);
      add_code<5>(held, table + kTableFloats, totals);
      add_code<10>(held, table + 2 * kTableFloats, totals);
      add_code<16>(held, table + 3 * kTableFloats, totals);
      add_code<21>(held, table + 4 * kTableFloats, totals);
      add_code<26>(held, table + 5 * kTableFloats, totals);
    }
#pragma GCC unroll 8
    for (int output = 0; output < kAtOnce; ++output)
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part)
        store_vector(sums + 16 * output + kLaneCount * part, totals[output][part]);
  }
}

}  // namespace
}  // namespace supermask
