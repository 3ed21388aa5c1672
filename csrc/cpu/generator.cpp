// fill_random and fill_philox: any stretch of the stream of a key, into a contiguous tensor of any float type.
#include <algorithm>
#include <cstring>
#include <memory>

#include "kernels.h"
#include "operators.h"

namespace supermask::op {
namespace {

using Draw = void (*)(uint64_t key, uint64_t block, int64_t count, float scale, float* out);

struct Stream {
  Draw draw;
  int64_t per_block;  // elements that one Philox block yields
  uint64_t key;
  float scale;
};

Stream stream_of(const std::string& scheme, uint64_t key, float scale) {
  const Kernels& table = kernels();
  if (scheme == "sign") return {table.sign, 128, key, scale};
  if (scheme == "uniform") return {table.uniform, 4, key, scale};
  check(scheme == "normal", "unknown scheme '", scheme, "'; choose one of sign, uniform, normal");
  return {table.normal, 4, key, scale};
}

constexpr int64_t kStretch = 8192;  // elements drawn at a time; a multiple of per_block

// Elements [begin, end) of the stream; `out` is where element `begin` goes.
void fill(const Stream& stream, int64_t begin, int64_t end, Dtype dtype, char* out) {
  alignas(64) float tile[kStretch];
  while (begin < end) {
    const int64_t block = begin / stream.per_block, offset = begin % stream.per_block;
    const int64_t take = std::min(end - begin, kStretch - offset);
    const int64_t blocks = (offset + take + stream.per_block - 1) / stream.per_block;
    const bool in_place = dtype == Dtype::float32 && offset == 0 && take == blocks * stream.per_block;
    stream.draw(stream.key, block, blocks, stream.scale, in_place ? reinterpret_cast<float*>(out) : tile);
    if (!in_place) kernels().float32.store(dtype, tile + offset, take, out);
    begin += take;
    out += take * size_of(dtype);
  }
}

}  // namespace

void fill_random(Tensor out, int64_t key, int64_t start, std::string scheme, double scale) {
  const Dtype dtype = check_float(out, "out");
  check(out.is_contiguous(), "out must be contiguous: elements are drawn in row-major order");
  check(start >= 0, "start must not be negative, but is ", start);
  const Stream stream = stream_of(scheme, static_cast<uint64_t>(key), static_cast<float>(scale));
  char* data = static_cast<char*>(out.mutable_data_ptr());
  // Whole tiles of the stream per thread, so that only the ends need the detour through a buffer.
  const int64_t first = start / kStretch, end = start + out.numel();
  torch::stable::parallel_for(first, (end + kStretch - 1) / kStretch, 4, [&](int64_t from, int64_t to) {
    const int64_t begin = std::max(from * kStretch, start);
    fill(stream, begin, std::min(to * kStretch, end), dtype, data + (begin - start) * size_of(dtype));
  });
}

void fill_philox(Tensor out, int64_t key, int64_t start) {
  check(out.is_cpu() && out.scalar_type() == ScalarType::Long && out.is_contiguous(),
        "out must be a contiguous int64 tensor on the CPU");
  check(start >= 0, "start must not be negative, but is ", start);
  int64_t* data = static_cast<int64_t*>(out.mutable_data_ptr());
  const int64_t end = start + out.numel(), stretches = (end + kStretch - 1) / kStretch;
  torch::stable::parallel_for(start / kStretch, stretches, 4, [&](int64_t from, int64_t to) {
    alignas(64) int64_t tile[kStretch];
    for (int64_t stretch = from; stretch < to; ++stretch) {
      const int64_t begin = std::max(stretch * kStretch, start), last = std::min((stretch + 1) * kStretch, end);
      const int64_t block = begin / 4, blocks = (last + 3) / 4 - block;
      kernels().words(static_cast<uint64_t>(key), static_cast<uint64_t>(block), blocks, tile);
      std::copy_n(tile + (begin - 4 * block), last - begin, data + (begin - start));
    }
  });
}

}  // namespace supermask::op
