// linear_from_codes, linear_from_codes_wgmma and decode_codes.
#include "packed_linear.h"

#include "arguments.h"
#include "codes_argument.h"
#include "operators.h"

namespace supermask::cuda::op {
namespace {

bool starts_at_sixteen(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

using Launch = void (*)(const PackedLinear&, Dtype, int, cudaStream_t);

Tensor multiply(Launch launch, const Tensor& x, const Tensor& codes, int64_t outputs, double scale,
                const std::optional<Tensor>& bias) {
  const Scope scope(x, "x");
  const Dtype dtype = check_decoded(x.scalar_type(), "x");
  check(x.is_cuda() && x.dim() == 2 && x.is_contiguous(),
        "x must be a contiguous CUDA tensor of two dimensions, not of shape ", shape_of(x));
  scope.check_here(codes, "codes");
  const int64_t batch = x.size(0), inputs = x.size(1);
  check(batch <= 32 * 65535, "x must have at most ", 32 * 65535, " rows, not ", batch, "; split it");
  const CodedMatrix matrix = check_codes(codes, outputs, inputs);
  Dtype bias_dtype = dtype;
  if (bias) {
    scope.check_here(*bias, "bias");
    bias_dtype = check_decoded(bias->scalar_type(), "bias");
    check(bias->is_contiguous() && bias->numel() == outputs, "bias must be a contiguous tensor of ", outputs,
          " values, not of shape ", shape_of(*bias));
  }
  const Tensor y = scope.empty({batch, outputs}, x.scalar_type());
  const PackedLinear task = {.matrix = matrix,
                             .x = x.const_data_ptr(),
                             .bias = bias ? bias->const_data_ptr() : nullptr,
                             .y = y.mutable_data_ptr(),
                             .bias_dtype = bias_dtype,
                             .factor = static_cast<float>(scale) / 2,
                             .batch = static_cast<int>(batch),
                             .ranks = 1,
                             .aligned = inputs % 8 == 0 && starts_at_sixteen(x.const_data_ptr())};
  launch(task, dtype, x.get_device_index(), scope.stream());
  return y;
}

}  // namespace

Tensor linear_from_codes(Tensor x, Tensor codes, int64_t outputs, double scale, std::optional<Tensor> bias) {
  return multiply(cuda::linear_from_codes, x, codes, outputs, scale, bias);
}

Tensor linear_from_codes_wgmma(Tensor x, Tensor codes, int64_t outputs, double scale, std::optional<Tensor> bias) {
  check(x.scalar_type() != ScalarType::Float, "x must be of bfloat16 or float16; linear_from_codes takes float32");
  return multiply(cuda::linear_from_codes_wgmma, x, codes, outputs, scale, bias);
}

Tensor decode_codes(Tensor codes, int64_t outputs, int64_t inputs, double scale, ScalarType dtype) {
  const Scope scope(codes, "codes");
  const CodedMatrix matrix = check_codes(codes, outputs, inputs);
  const Dtype type = check_decoded(dtype, "the matrix");
  const Tensor dense = scope.empty({outputs, inputs}, dtype);
  cuda::decode_codes(matrix, static_cast<float>(scale), type, dense.mutable_data_ptr(), scope.stream());
  return dense;
}

}  // namespace supermask::cuda::op
