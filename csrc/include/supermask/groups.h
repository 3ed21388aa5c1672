// N:M selection: the first n in rank of every m scores along a dimension.
#pragma once

#include <cstdint>

#include "supermask/array.h"
#include "supermask/hint.h"
#include "supermask/ranking.h"
#include "supermask/select.h"

namespace supermask {

// A tensor as a matrix of outputs x inputs, each entry `inner` scores (the positions of a kernel).
struct GroupedItem {
  Array scores;
  bool* mask;
  int64_t outputs, inputs, inner;
  Hint* hint;  // set to kNotFinite where a score is not finite; may be null

  SUPERMASK_MEMBER int64_t groups(int64_t m) const { return outputs * ((inputs + m - 1) / m) * inner; }
};

// Writes the mask of one group; false if a score in it is not finite. Every score counts those before it in
// rank: groups are small.
template <class Float>
SUPERMASK_HD bool select_group(const GroupedItem& item, int64_t group, int64_t n, int64_t m,
                               Ranking ranking) {
  const int64_t per_row = (item.inputs + m - 1) / m;
  const int64_t row = group / item.inner / per_row, in_row = group / item.inner % per_row;
  const int64_t begin = (row * item.inputs + in_row * m) * item.inner + group % item.inner;
  const int64_t rest = item.inputs - in_row * m, size = rest < m ? rest : m;
  const int64_t kept = kept_of_group(size, n, m);
  const auto key_at = [&](int64_t i) {
    return key_of(load<Float>(item.scores, begin + i * item.inner), ranking);
  };
  bool finite = true;
  for (int64_t i = 0; i < size; ++i) {
    const auto key = key_at(i);
    finite = finite && key < infinity_of<Float>(ranking);
    int64_t before = 0;
    for (int64_t j = 0; j < size; ++j) {
      const auto other = key_at(j);
      before += other > key || (other == key && j < i);
    }
    item.mask[begin + i * item.inner] = before < kept;
  }
  return finite;
}

}  // namespace supermask
