// Lists that operators are given as tensors; supermask/ops/layouts.py says what they mean.
#pragma once

#include "tensors.h"

namespace supermask {

struct ByteLists {
  const int32_t* starts;
  const uint8_t* entries;  // at least one, listed or not
};

// `count` lists, the end of each the start of the next.
inline ByteLists check_lists(const Tensor& starts, const Tensor& entries, int64_t count) {
  check(starts.is_cpu() && starts.scalar_type() == ScalarType::Int && starts.is_contiguous() &&
            starts.numel() == count + 1,
        "starts must be a contiguous int32 tensor of ", count + 1, " values on the CPU");
  check(entries.is_cpu() && entries.scalar_type() == ScalarType::Byte && entries.is_contiguous(),
        "entries must be a contiguous uint8 tensor on the CPU");
  const int32_t* first = static_cast<const int32_t*>(starts.data_ptr());
  // Signs of starts that are negative or fall, in a loop without a way out, which the compiler can vectorize.
  uint32_t signs = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t here = static_cast<uint32_t>(first[i]), next = static_cast<uint32_t>(first[i + 1]);
    signs |= next | (next - here);
  }
  check(first[0] == 0 && first[count] == entries.numel() && signs >> 31 == 0, "starts do not fit entries");
  static constexpr uint8_t kNone = 0;
  return {first, entries.numel() ? static_cast<const uint8_t*>(entries.data_ptr()) : &kNone};
}

// Where the values of each of `outputs` begin, and those of the last end; whether they fit is for the caller to see.
inline const int64_t* check_starts(const Tensor& starts, int64_t outputs) {
  check(starts.is_cpu() && starts.scalar_type() == ScalarType::Long && starts.is_contiguous() &&
            starts.numel() == outputs + 1,
        "starts must be a contiguous int64 tensor of ", outputs + 1, " values on the CPU");
  return static_cast<const int64_t*>(starts.data_ptr());
}

}  // namespace supermask
