// See ranked.h.
#include "ranked.h"

#include "launch.h"

namespace supermask::cuda {
namespace {

template <class Float>
void rank_as(const Scope& scope, const std::vector<Ranked>& tensors, const std::vector<Counted>& counts,
             Ranking ranking, Hint* hints, bool floor) {
  const int count = static_cast<int>(counts.size());
  const Tensor memory =
      scope.empty({count * static_cast<int64_t>(sizeof(RankedSegment<Float>))}, ScalarType::Byte);
  RankedSegment<Float>* segments = static_cast<RankedSegment<Float>*>(memory.data_ptr());
  using Place = typename Places<Float>::Place;
  Bests<Float> bests = {};
  std::vector<Tensor> places;
  if (floor && !tensors.empty()) {
    const Ranked& last = tensors.back();
    for (const int64_t number : {last.first_stretch + last.stretches(), static_cast<int64_t>(tensors.size())})
      places.push_back(scope.empty({number * static_cast<int64_t>(sizeof(Place))}, ScalarType::Byte));
    bests = {static_cast<Place*>(places[0].data_ptr()), static_cast<Place*>(places[1].data_ptr())};
  }
  rank(tensors, counts, ranking, segments, bests, scope.stream());
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
                  Hint* hints, bool floor) {
  const bool together = check_keep_or_total(scores, keep);
  floor = floor && together;
  check_same_length(masks.size(), "masks", scores.size(), "scores");
  std::vector<Ranked> tensors;
  std::vector<Counted> counts;
  int64_t base = 0, stretches = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    const int64_t numel = scores[i].numel();
    bool* const mask = check_mask_to_write(scope, masks[i], scores[i]);
    if (together && !numel) continue;
    tensors.push_back({arrays[i], mask, numel, static_cast<uint32_t>(base), together ? 0 : static_cast<int>(i),
                       static_cast<int>(tensors.size()), stretches});
    stretches += tensors.back().stretches();
    if (together) base += numel;
    if (!together) counts.push_back({keep[i], numel});
    check_rankable(together ? base : numel);
  }
  const int64_t kept = floor ? static_cast<int64_t>(tensors.size()) : 0;
  if (floor) check_floor(keep[0], kept);
  if (together) counts.push_back({keep[0] - kept, base - kept});
  any_wide(arrays) ? rank_as<double>(scope, tensors, counts, ranking, hints, floor)
                   : rank_as<float>(scope, tensors, counts, ranking, hints, floor);
}

}  // namespace supermask::cuda
