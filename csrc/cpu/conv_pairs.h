// What convolutions of training steps share. What is left out may change with every call, so each lays out its lists
// anew.
//
// A tap of the kernel pairs an output's position with an input's, or with the padding, which nothing reads. For such a
// pair the products are of plain matrices, channels by channels by images; that is the same for every tap, stride and
// padding.
#pragma once

#include <algorithm>
#include <vector>

#include "nonzero_lists.h"
#include "operators.h"

namespace supermask {
namespace {

using op::Counts;

constexpr int64_t kTurned = 1 << 14;  // floats that are turned at once

// visit(first, last) for `begin` to `end` in groups of at most `many`, or of one.
template <class Visit>
void in_groups(int64_t begin, int64_t end, int64_t many, Visit visit) {
  many = std::max<int64_t>(many, 1);
  for (; begin < end; begin += many) visit(begin, std::min(begin + many, end));
}

struct Pair {
  int64_t tap, position;
};

struct Shape {
  int64_t images, channels, outputs;
  int64_t size[2], out[2];  // heights and widths of the inputs, of the outputs
  int64_t kernel[2], stride[2], padding[2];

  int64_t taps() const { return kernel[0] * kernel[1]; }
  int64_t inputs() const { return size[0] * size[1]; }       // positions
  int64_t positions() const { return out[0] * out[1]; }      // of outputs
  int64_t depth() const { return taps() * channels; }

  // The input that a tap pairs with an output, in one dimension; out of range within the padding.
  int64_t input(int dimension, int64_t output, int64_t tap) const {
    return output * stride[dimension] + tap - padding[dimension];
  }

  // The output that it pairs with an input; -1 where there is none.
  int64_t output(int dimension, int64_t input, int64_t tap) const {
    const int64_t at = input + padding[dimension] - tap;
    return at >= 0 && at % stride[dimension] == 0 && at / stride[dimension] < out[dimension] ? at / stride[dimension]
                                                                                             : -1;
  }

  // The taps of an output and the inputs they pair it with, or the other way round.
  void pairs(int64_t position, bool of_inputs, std::vector<Pair>& found) const {
    found.clear();
    const int64_t* here = of_inputs ? size : out;
    const int64_t* there = of_inputs ? out : size;
    const int64_t row = position / here[1], column = position % here[1];
    for (int64_t i = 0; i < kernel[0]; ++i) {
      const int64_t y = of_inputs ? output(0, row, i) : input(0, row, i);
      if (y < 0 || y >= there[0]) continue;
      for (int64_t j = 0; j < kernel[1]; ++j) {
        const int64_t x = of_inputs ? output(1, column, j) : input(1, column, j);
        if (x >= 0 && x < there[1]) found.push_back({i * kernel[1] + j, y * there[1] + x});
      }
    }
  }
};

// `x` are images of `size`, or null; `grad` those of the outputs, or null.
Shape check_shape(const Tensor* x, const Tensor* grad, int64_t channels, int64_t outputs, const Counts& size,
                  const Counts& kernel, const Counts& stride, const Counts& padding) {
  const auto numbers = [](const Counts& values, int64_t least, const char* what) {
    check(values.size() == 2 && std::min(values[0], values[1]) >= least, what, " must be 2 integers from ", least, " on");
  };
  const auto images = [](const Tensor& tensor, const char* what) {
    check(tensor.is_cpu() && tensor.scalar_type() == ScalarType::Float && is_channels_last(tensor), what,
          " must be a float32 tensor of four dimensions in channels_last on the CPU");
  };
  if (x) images(*x, "x");
  if (grad) images(*grad, "grad");
  numbers(kernel, 1, "kernel"), numbers(stride, 1, "stride"), numbers(padding, 0, "padding");
  Shape s = {};
  s.images = (x ? x : grad)->size(0), s.channels = channels, s.outputs = outputs;
  const Counts sizes = x ? Counts{x->size(2), x->size(3)} : size;
  numbers(sizes, 0, "size");
  for (int i = 0; i < 2; ++i) {
    s.size[i] = sizes[i], s.kernel[i] = kernel[i], s.stride[i] = stride[i], s.padding[i] = padding[i];
    check(std::max({sizes[i], kernel[i], stride[i], padding[i]}) <= int64_t{1} << 31, "sizes are too large");
    check(sizes[i] + 2 * padding[i] >= kernel[i], "kernel reaches over ", kernel[i], " inputs, but x with its padding has ",
          sizes[i] + 2 * padding[i]);
    s.out[i] = (sizes[i] + 2 * padding[i] - kernel[i]) / stride[i] + 1;
  }
  if (x) check(x->size(1) == channels, "x must have ", channels, " channels, but has ", x->size(1));
  if (grad)
    check(grad->size(0) == s.images && grad->size(1) == outputs && grad->size(2) == s.out[0] && grad->size(3) == s.out[1],
          "grad must have the shape (", s.images, ", ", outputs, ", ", s.out[0], ", ", s.out[1], "), but has ",
          shape_of(*grad));
  return s;
}

Tensor new_images(int64_t images, int64_t channels, int64_t height, int64_t width) {
  return torch::stable::empty({images, channels, height, width}, ScalarType::Float, std::nullopt, std::nullopt,
                              std::nullopt, torch::headeronly::MemoryFormat::ChannelsLast);
}

}  // namespace
}  // namespace supermask
