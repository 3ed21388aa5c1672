// fill_random and fill_philox: any stretch of the stream of a key, into a contiguous tensor.
#include "generator.h"

#include "arguments.h"
#include "operators.h"

namespace supermask::cuda::op {
namespace {

Scheme scheme_of(const std::string& name) {
  if (name == "sign") return Scheme::sign;
  if (name == "uniform") return Scheme::uniform;
  check(name == "normal", "unknown scheme '", name, "'; choose one of sign, uniform, normal");
  return Scheme::normal;
}

}  // namespace

void fill_random(Tensor out, int64_t key, int64_t start, std::string scheme, double scale) {
  const Scope scope(out, "out");
  const Dtype dtype = check_float(scope, out, "out");
  check(out.is_contiguous(), "out must be contiguous: elements are drawn in row-major order");
  check(start >= 0, "start must not be negative, but is ", start);
  cuda::fill_random(scheme_of(scheme), static_cast<uint64_t>(key), static_cast<uint64_t>(start), out.numel(),
                    static_cast<float>(scale), dtype, out.mutable_data_ptr(), scope.stream());
}

void fill_philox(Tensor out, int64_t key, int64_t start) {
  const Scope scope(out, "out");
  check(out.scalar_type() == ScalarType::Long && out.is_contiguous(),
        "out must be a contiguous int64 tensor");
  check(start >= 0, "start must not be negative, but is ", start);
  cuda::fill_philox(static_cast<uint64_t>(key), static_cast<uint64_t>(start), out.numel(),
                    out.mutable_data_ptr<int64_t>(), scope.stream());
}

}  // namespace supermask::cuda::op
