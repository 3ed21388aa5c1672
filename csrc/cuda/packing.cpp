// pack_mask and unpack_mask.
#include "packing.h"

#include "arguments.h"
#include "operators.h"

namespace supermask::cuda::op {

Tensor pack_mask(Tensor mask) {
  const Scope scope(mask, "mask");
  check(mask.scalar_type() == ScalarType::Bool, "masks must be bool tensors");
  const Tensor flags = mask.is_contiguous() ? mask : torch::stable::contiguous(mask);
  const int64_t numel = mask.numel();
  const Tensor packed = scope.empty({(numel + 7) / 8}, ScalarType::Byte);
  cuda::pack_mask(flags.const_data_ptr<bool>(), numel, packed.mutable_data_ptr<uint8_t>(), scope.stream());
  return packed;
}

Tensor unpack_mask(Tensor packed, int64_t numel) {
  const Scope scope(packed, "packed");
  check(numel >= 0, "numel must not be negative, but is ", numel);
  check(packed.scalar_type() == ScalarType::Byte && packed.dim() == 1 && packed.numel() == (numel + 7) / 8,
        numel, " mask bits take ", (numel + 7) / 8, " bytes in one dimension, not shape ", shape_of(packed));
  const Tensor bytes = packed.is_contiguous() ? packed : torch::stable::contiguous(packed);
  const Tensor mask = scope.empty({numel}, ScalarType::Bool);
  cuda::unpack_mask(bytes.const_data_ptr<uint8_t>(), numel, mask.mutable_data_ptr<bool>(), scope.stream());
  return mask;
}

}  // namespace supermask::cuda::op
