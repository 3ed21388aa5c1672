// Lists of the values of a sparse matrix that are not 0, laid out as a product goes along: its operands may change
// with every call.
#pragma once

#include "batch.h"
#include "kernels.h"
#include "scratch.h"

namespace supermask {

constexpr int64_t kDepth = 128;   // rows of a panel, which with 64 columns fills the first cache
constexpr int64_t kColumns = 64;  // of a panel at most

inline int64_t in_vectors(int64_t count) { return divide_up(count, 16) * 16; }

// Lists of rows: the values of each that are not 0, with the distance in bytes of what they are multiplied by.
class Lists {
 public:
  // A place holds `rows` rows of up to `columns` values each.
  static int64_t floats(int64_t places, int64_t rows, int64_t columns) {
    return places * (2 * room(rows, columns) + in_vectors(rows + 1));
  }

  Lists(float* memory, int64_t places, int64_t rows, int64_t columns)
      : rows_(rows), room_(room(rows, columns)), entries_(reinterpret_cast<Entry*>(memory)),
        starts_(reinterpret_cast<int32_t*>(memory + 2 * places * room_)) {}

  const Entry* entries(int64_t place) const { return entries_ + place * room_; }
  const int32_t* starts(int64_t place) const { return starts_ + place * in_vectors(rows_ + 1); }

  // Rows come one after the other, from the first on.
  void begin(int64_t place) const { starts_[place * in_vectors(rows_ + 1)] = 0; }
  void append(int64_t place, int64_t row, const float* values, int64_t columns, int64_t bytes) const {
    int32_t* ends = starts_ + place * in_vectors(rows_ + 1) + row;
    Entry* next = entries_ + place * room_ + ends[0];
    ends[1] = ends[0] + static_cast<int32_t>(kernels().list_entries(values, columns, static_cast<int32_t>(bytes), next));
  }

 private:
  static int64_t room(int64_t rows, int64_t columns) { return in_vectors(rows * columns + 8); }

  int64_t rows_, room_;
  Entry* entries_;
  int32_t* starts_;
};

}  // namespace supermask
