// decode_codes: the codes that GPUs compute from, as a dense matrix.
#include "codes_argument.h"
#include "operators.h"

namespace supermask::op {
namespace {

constexpr int64_t kGrain = 64;  // tiles that are worth a thread

template <class Value>
void decode(const CodedMatrix& matrix, double scale, void* dense) {
  Value rounded;
  from_float(static_cast<float>(scale), rounded);
  const int64_t tiles = static_cast<int64_t>(matrix.output_tiles) * matrix.input_tiles;
  torch::stable::parallel_for(0, tiles, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t place = begin * kLanes; place < end * kLanes; ++place)
      decode_lane(matrix, place, rounded, static_cast<Value*>(dense));
  });
}

}  // namespace

Tensor decode_codes(Tensor codes, int64_t outputs, int64_t inputs, double scale, ScalarType dtype) {
  check(codes.is_cpu(), "codes must be on the CPU");
  const CodedMatrix matrix = check_codes(codes, outputs, inputs);
  const Dtype type = check_decoded(dtype, "the matrix");
  const Tensor dense = torch::stable::empty({outputs, inputs}, dtype);
  void* data = dense.mutable_data_ptr();
  switch (type) {
    case Dtype::bfloat16: decode<BFloat16>(matrix, scale, data); break;
    case Dtype::float16: decode<Float16>(matrix, scale, data); break;
    default: decode<float>(matrix, scale, data);
  }
  return dense;
}

}  // namespace supermask::op
