// Lists of the values of a sparse matrix that are not 0, laid out as a product goes along: its operands may change
// with every call.
#pragma once

#include <algorithm>

#include "batch.h"
#include "kernels.h"
#include "scratch.h"

namespace supermask {

constexpr int64_t kListed = 128;  // columns of the sparse matrix that a list counts in one byte

// A place holds the lists of up to kPanel rows for up to kListed columns, with room for all and for a vector more.
class NonzeroLists {
 public:
  NonzeroLists(int64_t places, Scratch& scratch) {
    values_ = scratch.floats(places * (kRoom + kPanel + 1 + kRoom / 4));
    starts_ = reinterpret_cast<int32_t*>(values_ + places * kRoom);
    entries_ = reinterpret_cast<uint8_t*>(starts_ + places * (kPanel + 1));
  }

  const float* values(int64_t place) const { return values_ + place * kRoom; }
  const int32_t* starts(int64_t place) const { return starts_ + place * (kPanel + 1); }
  const uint8_t* entries(int64_t place) const { return entries_ + place * kRoom; }

  // Rows that lie `apart` floats from one another and are `depth` long, by as many places as they take from `first` on.
  void fill_rows(int64_t first, const float* from, int64_t apart, int64_t rows, int64_t depth) const {
    for (int64_t column = 0, place = first; column < depth; column += kListed, ++place) begin(place);
    for (int64_t row = 0; row < rows; ++row, from += apart)  // each to its end, as it lies in memory
      for (int64_t column = 0, place = first; column < depth; column += kListed, ++place)
        append(place, row, from + column, std::min(kListed, depth - column));
  }

  // The same of at most kListed columns, which lie `apart` from one another, by one place.
  void fill_columns(int64_t place, const float* from, int64_t apart, int64_t rows, int64_t columns) const {
    alignas(64) float turned[kPanel * kListed];
    kernels().transpose(from, columns, rows, apart, turned, kListed);
    begin(place);
    for (int64_t row = 0; row < rows; ++row) append(place, row, turned + row * kListed, columns);
  }

 private:
  static constexpr int64_t kRoom = kPanel * kListed + 16;

  void begin(int64_t place) const {  // what comes first may be read where nothing is listed
    starts_[place * (kPanel + 1)] = 0, entries_[place * kRoom] = 0, values_[place * kRoom] = 0;
  }

  void append(int64_t place, int64_t row, const float* from, int64_t columns) const {
    int32_t* ends = starts_ + place * (kPanel + 1) + row;
    const int64_t next = place * kRoom + ends[0];
    ends[1] = ends[0] + static_cast<int32_t>(kernels().list_nonzero(from, columns, entries_ + next, values_ + next));
  }

  float* values_;
  int32_t* starts_;
  uint8_t* entries_;
};

}  // namespace supermask
