// See ranked.h.
#include "ranked.h"

#include "launch.h"

namespace supermask::cuda {
namespace {

template <class Float>
void rank_as(const Scope& scope, const std::vector<Ranked>& tensors, const std::vector<Counted>& counts,
             Ranking ranking, Hint* hints) {
  const int count = static_cast<int>(counts.size());
  const Tensor memory =
      scope.empty({count * static_cast<int64_t>(sizeof(RankedSegment<Float>))}, ScalarType::Byte);
  RankedSegment<Float>* segments = static_cast<RankedSegment<Float>*>(memory.data_ptr());
  rank(tensors, counts, ranking, segments, scope.stream());
  if (hints) return mark_hints(segments, count, hints, scope.stream());
  if (capturing(scope)) return;
  check(!met_infinite(segments, count, scope.stream()), "scores are not finite");
}

}  // namespace

bool capturing(const Scope& scope) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(scope.stream(), &status), "tell whether a graph is being captured");
  return status != cudaStreamCaptureStatusNone;
}

bool any_wide(const std::vector<Array>& arrays) {
  for (const Array& array : arrays)
    if (array.dtype == Dtype::float64) return true;
  return false;
}

void rank_tensors(const Scope& scope, const std::vector<Array>& arrays, const std::vector<Tensor>& scores,
                  const std::vector<Tensor>& masks, const std::vector<int64_t>& keep, Ranking ranking,
                  Hint* hints) {
  const bool together = check_keep_or_total(scores, keep);
  check_same_length(masks.size(), "masks", scores.size(), "scores");
  std::vector<Ranked> tensors;
  std::vector<Counted> counts;
  int64_t base = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    const int64_t numel = scores[i].numel();
    tensors.push_back({arrays[i], check_mask_to_write(scope, masks[i], scores[i]), numel,
                       static_cast<uint32_t>(base), together ? 0 : static_cast<int>(i)});
    if (together) base += numel;
    if (!together) counts.push_back({keep[i], numel});
    check_rankable(together ? base : numel);
  }
  if (together) counts.push_back({keep[0], base});
  any_wide(arrays) ? rank_as<double>(scope, tensors, counts, ranking, hints)
                   : rank_as<float>(scope, tensors, counts, ranking, hints);
}

}  // namespace supermask::cuda
