// The gradient of a convolution's weights, in time for the inputs that are not 0: half of them behind a ReLU.
//
// The images of an input's channel at a position are what is listed, and a row that a listed input is multiplied by holds
// the gradients of 64 output channels of one image.
#include "conv_pairs.h"

namespace supermask::op {
namespace {

// The gradient of weights: for every tap the sum over the pairs of positions of inputs times gradients of outputs.
struct WeightGradient {
  Shape s;
  const float* x;
  const float* grad;
  float* to;  // by (output, tap, channel)

  int64_t tiles() const { return divide_up(s.outputs, kColumns); }
  int64_t panels() const { return divide_up(s.channels, kColumns); }
  int64_t blocks() const { return divide_up(s.images, kDepth); }
  int64_t wide(int64_t tile) const { return std::min(kColumns, s.outputs - tile * kColumns); }
  // Floats of a tile: few images or outputs take no room for many.
  int64_t tile_size() const { return std::min(kDepth, s.images) * std::min(kColumns, in_vectors(s.outputs)); }

  // Tiles of the gradients of a block of images, at positions from one to another: images by outputs.
  void copy(int64_t block, int64_t position, int64_t end, float* to_tiles) const {
    const int64_t first = block * kDepth, count = std::min(kDepth, s.images - first), each = tile_size();
    for (int64_t i = 0; i < count; ++i)
      for (int64_t at = position; at < end; ++at) {
        const float* from = grad + ((first + i) * s.positions() + at) * s.outputs;
        float* place = to_tiles + (at - position) * tiles() * each;
        for (int64_t tile = 0; tile < tiles(); ++tile, from += kColumns, place += each) {
          const int64_t width = in_vectors(wide(tile));
          std::copy_n(from, wide(tile), place + i * width);
          std::fill_n(place + i * width + wide(tile), width - wide(tile), 0.0f);
        }
      }
  }

  // The inputs of a block of images at a position, by channels from `first` on.
  void list(int64_t block, int64_t position, int64_t first, int64_t high, int64_t bytes, const Lists& lists) const {
    alignas(64) float turned[kColumns * kDepth];
    const int64_t image = block * kDepth, count = std::min(kDepth, s.images - image), apart = s.inputs() * s.channels;
    kernels().transpose(x + image * apart + position * s.channels + first, count, high, apart, turned, kDepth);
    lists.begin(0);
    for (int64_t i = 0; i < high; ++i) lists.append(0, i, turned + i * kDepth, count, bytes);
  }

  // Channels of one panel by outputs of one tile, for some of the taps.
  void sum(int64_t panel, int64_t tile, int64_t from, int64_t end, const float* copied) const {
    thread_local Scratch scratch;
    const int64_t width = in_vectors(wide(tile)), first = panel * kColumns, high = std::min(kColumns, s.channels - first);
    const int64_t each = kColumns * width;
    float* const sums = scratch.floats((end - from) * each + Lists::floats(1, kColumns, kDepth));
    const Lists lists(sums + (end - from) * each, 1, kColumns, kDepth);
    std::fill_n(sums, (end - from) * each, 0.0f);
    const auto add = kernels().sum_entries[true][width / 16 - 1];
    thread_local std::vector<Pair> pairs;
    for (int64_t block = 0; block < blocks(); ++block)
      for (int64_t position = 0; position < s.inputs(); ++position) {
        s.pairs(position, true, pairs);
        const auto other = [&](const Pair& pair) { return pair.tap < from || pair.tap >= end; };
        pairs.erase(std::remove_if(pairs.begin(), pairs.end(), other), pairs.end());
        if (pairs.empty()) continue;
        list(block, position, first, high, 4 * width, lists);
        for (size_t i = 0; i < pairs.size(); ++i) {
          const auto panel = [&](size_t pair) {
            return copied + ((block * s.positions() + pairs[pair].position) * tiles() + tile) * tile_size();
          };
          const int64_t lines = divide_up(std::min(kDepth, s.images - block * kDepth) * width / 16, high);
          add(panel(i), lists.entries(0), lists.starts(0), high, sums + (pairs[i].tap - from) * each, width,
              panel(std::min(i + 1, pairs.size() - 1)), lines);
        }
      }
    for (int64_t tap = from; tap < end; ++tap)
      kernels().transpose(sums + (tap - from) * each, high, wide(tile), width,
                          to + (tile * kColumns * s.taps() + tap) * s.channels + first, s.depth());
  }

  void compute() const {
    const int64_t units = panels() * tiles(), places = blocks() * s.positions(), each = tiles() * tile_size();
    if (!units) return;
    thread_local Scratch kept;
    const Room copies(kept, places * each);
    float* const all = copies.get();
    torch::stable::parallel_for(0, places, grain(each), [&](int64_t begin, int64_t end) {
      while (begin < end) {  // up to eight positions of one block
        const int64_t first = begin % s.positions(), last = std::min({first + 8, s.positions(), first + end - begin});
        copy(begin / s.positions(), first, last, all + begin * each);
        begin += last - first;
      }
    });
    // Rows of taps are computed by themselves where there is too little else to share: each lists the inputs again.
    const int64_t threads = torch::stable::get_num_threads(), shares = units >= 2 * threads ? 1 : s.kernel[0];
    const int64_t taps = s.taps() / shares;
    torch::stable::parallel_for(0, units * shares, grain(s.images * s.positions() * taps * kColumns * kColumns),
                                [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t share = unit / units, tile = unit % units / panels(), panel = unit % panels();
        sum(panel, tile, share * taps, (share + 1) * taps, all);
      }
    });
  }
};

}  // namespace

Tensor conv_weight_gradient(Tensor grad, Tensor x, Counts kernel, Counts stride, Counts padding) {
  check(x.dim() == 4 && grad.dim() == 4, "grad and x must have four dimensions");
  const Shape s = check_shape(&x, &grad, x.size(1), grad.size(1), {}, kernel, stride, padding);
  const Tensor result = new_images(s.outputs, s.channels, kernel[0], kernel[1]);
  WeightGradient{s, static_cast<const float*>(x.data_ptr()), static_cast<const float*>(grad.data_ptr()),
                 static_cast<float*>(result.mutable_data_ptr())}
      .compute();
  return result;
}

}  // namespace supermask::op
