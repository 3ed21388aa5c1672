// pack_mask and unpack_mask.
#include <algorithm>

#include "kernels.h"
#include "operators.h"

namespace supermask::op {
namespace {

constexpr int64_t kGrain = 1 << 13;  // bytes of packed mask that are worth a thread

}  // namespace

Tensor pack_mask(Tensor mask) {
  const Tensor flags = check_mask(mask);
  const int64_t numel = mask.numel(), whole = numel / 8;
  const Tensor packed = torch::stable::empty({(numel + 7) / 8}, ScalarType::Byte);
  const bool* from = flags.const_data_ptr<bool>();
  uint8_t* to = packed.mutable_data_ptr<uint8_t>();
  torch::stable::parallel_for(0, whole, kGrain, [&](int64_t begin, int64_t end) {
    kernels().pack(from + 8 * begin, end - begin, to + begin);
  });
  if (const int64_t rest = numel - 8 * whole) {
    bool last[8] = {};
    std::copy_n(from + 8 * whole, rest, last);
    kernels().pack(last, 1, to + whole);
  }
  return packed;
}

Tensor unpack_mask(Tensor packed, int64_t numel) {
  check(numel >= 0, "numel must not be negative, but is ", numel);
  check(packed.is_cpu() && packed.scalar_type() == ScalarType::Byte && packed.dim() == 1 &&
            packed.numel() == (numel + 7) / 8,
        numel, " mask bits take ", (numel + 7) / 8, " bytes in one dimension, not shape ", shape_of(packed));
  const Tensor bytes = packed.is_contiguous() ? packed : torch::stable::contiguous(packed);
  const Tensor mask = torch::stable::empty({numel}, ScalarType::Bool);
  const uint8_t* from = bytes.const_data_ptr<uint8_t>();
  bool* to = mask.mutable_data_ptr<bool>();
  const int64_t whole = numel / 8;
  torch::stable::parallel_for(0, whole, kGrain, [&](int64_t begin, int64_t end) {
    kernels().unpack(from + begin, end - begin, to + 8 * begin);
  });
  if (const int64_t rest = numel - 8 * whole) {
    bool last[8];
    kernels().unpack(from + whole, 1, last);
    std::copy_n(last, rest, to + 8 * whole);
  }
  return mask;
}

}  // namespace supermask::op
