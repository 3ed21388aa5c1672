// encode_mask and decode_mask.
#include <algorithm>

#include "operators.h"
#include "supermask/rans.h"

namespace supermask::op {

Tensor encode_mask(Tensor mask) {
  const Tensor flags = check_mask(mask);
  check(mask.numel() > 0, "a mask without bits has no code");
  const std::vector<uint8_t> code = rans_encode(flags.const_data_ptr<bool>(), mask.numel());
  const Tensor coded = torch::stable::empty({static_cast<int64_t>(code.size())}, ScalarType::Byte);
  std::copy(code.begin(), code.end(), coded.mutable_data_ptr<uint8_t>());
  return coded;
}

Tensor decode_mask(Tensor coded, int64_t numel) {
  check(coded.is_cpu() && coded.scalar_type() == ScalarType::Byte && coded.dim() == 1,
        "the code of a mask must be a uint8 tensor of one dimension on the CPU");
  check(numel > 0, "a mask without bits has no code; numel is ", numel);
  check(coded.numel() >= rans_head(numel), "the code of ", numel, " mask bits takes ", rans_head(numel),
        " bytes or more, not ", coded.numel());
  const Tensor bytes = coded.is_contiguous() ? coded : torch::stable::contiguous(coded);
  const Tensor mask = torch::stable::empty({numel}, ScalarType::Bool);
  const char* fault = rans_decode(bytes.const_data_ptr<uint8_t>(), bytes.numel(), numel,
                                  mask.mutable_data_ptr<bool>());
  check(!fault, "the code of ", numel, " mask bits ", fault ? fault : "");
  return mask;
}

}  // namespace supermask::op
