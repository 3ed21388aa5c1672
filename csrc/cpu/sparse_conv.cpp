// Convolutions of training steps with sparse weights, in time for those that are not 0: the product, and the gradient of
// its inputs.
//
// Images lie side by side: a position is a matrix of its channels by up to 64 images, and a row of it is what a listed
// weight is multiplied by.
#include <optional>

#include "conv_pairs.h"

namespace supermask::op {
namespace {

// Weights by (output, tap, channel): their own memory in channels_last, else a copy in `room`.
const float* by_taps(const Tensor& weights, std::optional<Room>& room) {
  check(weights.is_cpu() && weights.scalar_type() == ScalarType::Float && weights.dim() == 4 &&
            (weights.is_contiguous() || is_channels_last(weights)),
        "weights must be a float32 tensor of four dimensions on the CPU, contiguous or in channels_last");
  const float* values = static_cast<const float*>(weights.data_ptr());
  if (is_channels_last(weights)) return values;
  thread_local Scratch kept;
  float* const copy = room.emplace(kept, weights.numel()).get();
  const int64_t channels = weights.size(1), taps = weights.size(2) * weights.size(3), each = channels * taps;
  torch::stable::parallel_for(0, weights.size(0), 1 + (1 << 16) / (each + 1), [&](int64_t from, int64_t to) {
    for (int64_t output = from; output < to; ++output)
      kernels().transpose(values + output * each, channels, taps, taps, copy + output * each, channels);
  });
  return copy;
}

// The convolution, or the gradient of its inputs: for every position the sum over its taps of weights times what lies
// at the position that the tap pairs it with.
struct Product {
  Shape s;
  bool of_inputs;  // the gradient
  const float* weights;
  const float* from;  // images in channels_last
  float* to;

  int64_t sources() const { return of_inputs ? s.outputs : s.channels; }  // channels
  int64_t results() const { return of_inputs ? s.channels : s.outputs; }
  int64_t source_positions() const { return of_inputs ? s.positions() : s.inputs(); }
  int64_t result_positions() const { return of_inputs ? s.inputs() : s.positions(); }
  int64_t parts() const { return divide_up(sources(), kDepth); }
  int64_t part(int64_t index) const { return std::min(kDepth, sources() - index * kDepth); }
  int64_t blocks() const { return divide_up(s.images, kColumns); }  // of images, of about one size
  int64_t block() const { return divide_up(s.images, blocks()); }
  int64_t width() const { return in_vectors(block()); }

  // The weights of a tap and a part of the sources, by results.
  void list(int64_t place, const Lists& lists) const {
    const int64_t tap = place / parts(), first = place % parts() * kDepth, count = part(place % parts());
    const int64_t bytes = 4 * width();
    lists.begin(place);
    if (!of_inputs) {
      for (int64_t output = 0; output < s.outputs; ++output)
        lists.append(place, output, weights + output * s.depth() + tap * s.channels + first, count, bytes);
      return;
    }
    alignas(64) float turned[kColumns * kDepth];
    for (int64_t begin = 0; begin < s.channels; begin += kColumns) {
      const int64_t some = std::min(kColumns, s.channels - begin);
      kernels().transpose(weights + first * s.depth() + tap * s.channels + begin, count, some, s.depth(), turned, kDepth);
      for (int64_t i = 0; i < some; ++i) lists.append(place, begin + i, turned + i * kDepth, count, bytes);
    }
  }

  // Positions of the sources, from one to another: channels by images. What an image has of them lies side by side.
  void turn(int64_t image, int64_t position, int64_t end, float* turned) const {
    const int64_t count = std::min(block(), s.images - image), apart = source_positions() * sources();
    const int64_t rows = (end - position) * sources();
    if (count < width()) std::fill_n(turned, rows * width(), 0.0f);
    kernels().transpose(from + image * apart + position * sources(), count, rows, apart, turned, width());
  }

  // Positions of the results.
  void sum(int64_t image, int64_t position, int64_t end, const float* turned, const Lists& lists, float* sums) const {
    thread_local std::vector<Pair> pairs;
    const int64_t rows = (end - position) * results();
    for (int64_t i = position; i < end; ++i) {
      s.pairs(i, of_inputs, pairs);
      add(pairs, turned, lists, sums + (i - position) * results() * width());
    }
    // Eight images at a time, whole lines of memory: the images lie too far apart for the cache to hold parts of all.
    const int64_t count = std::min(block(), s.images - image), apart = result_positions() * results();
    for (int64_t i = 0; i < count; i += 8)
      kernels().transpose(sums + i, rows, std::min<int64_t>(8, count - i), width(),
                          to + (image + i) * apart + position * results(), apart);
  }

  void add(const std::vector<Pair>& pairs, const float* turned, const Lists& lists, float* sums) const {
    const int64_t count = static_cast<int64_t>(pairs.size()) * parts();
    if (!count) std::fill_n(sums, results() * width(), 0.0f);
    const auto panel = [&](int64_t i) {
      return turned + (pairs[i / parts()].position * sources() + i % parts() * kDepth) * width();
    };
    for (int64_t i = 0; i < count; ++i) {
      const int64_t place = pairs[i / parts()].tap * parts() + i % parts(), next = std::min(i + 1, count - 1);
      const int64_t lines = divide_up(part(next % parts()) * width() / 16, results());
      kernels().sum_entries[i > 0][width() / 16 - 1](panel(i), lists.entries(place), lists.starts(place), results(),
                                                     sums, width(), panel(next), lines);
    }
  }

  void compute() const {
    if (!s.images || !results() || !result_positions()) return;
    const int64_t places = s.taps() * parts(), depth = std::min(kDepth, std::max<int64_t>(sources(), 1));
    thread_local Scratch for_lists, for_sources;
    const Room listed(for_lists, Lists::floats(places, results(), depth));
    const Lists lists(listed.get(), places, results(), depth);
    torch::stable::parallel_for(0, places, grain(results() * depth), [&](int64_t begin, int64_t end) {
      for (int64_t place = begin; place < end; ++place) list(place, lists);
    });
    const int64_t each = sources() * width();
    const Room turned(for_sources, source_positions() * each);
    float* const all = turned.get();
    for (int64_t image = 0; image < s.images; image += block()) {
      torch::stable::parallel_for(0, source_positions(), grain(each), [&](int64_t begin, int64_t end) {
        in_groups(begin, end, kTurned / std::max<int64_t>(each, 1), [&](int64_t first, int64_t last) {
          turn(image, first, last, all + first * each);
        });
      });
      const int64_t work = s.depth() * s.outputs * width(), some = results() * width();
      torch::stable::parallel_for(0, result_positions(), grain(work), [&](int64_t begin, int64_t end) {
        thread_local Scratch for_sums;
        float* const sums = for_sums.floats(std::max(kTurned, some));
        in_groups(begin, end, kTurned / some,
                  [&](int64_t first, int64_t last) { sum(image, first, last, all, lists, sums); });
      });
    }
  }
};

}  // namespace

Tensor sparse_conv(Tensor x, Tensor weights, Counts stride, Counts padding) {
  std::optional<Room> room;
  const float* values = by_taps(weights, room);
  const Counts kernel = {weights.size(2), weights.size(3)};
  const Shape s = check_shape(&x, nullptr, weights.size(1), weights.size(0), {}, kernel, stride, padding);
  const Tensor y = new_images(s.images, s.outputs, s.out[0], s.out[1]);
  Product{s, false, values, static_cast<const float*>(x.data_ptr()), static_cast<float*>(y.mutable_data_ptr())}.compute();
  return y;
}

Tensor sparse_conv_input_gradient(Tensor grad, Tensor weights, Counts size, Counts stride, Counts padding) {
  std::optional<Room> room;
  const float* values = by_taps(weights, room);
  const Counts kernel = {weights.size(2), weights.size(3)};
  const Shape s = check_shape(nullptr, &grad, weights.size(1), weights.size(0), size, kernel, stride, padding);
  const Tensor x = new_images(s.images, s.channels, s.size[0], s.size[1]);
  Product{s, true, values, static_cast<const float*>(grad.data_ptr()), static_cast<float*>(x.mutable_data_ptr())}
      .compute();
  return x;
}

}  // namespace supermask::op
