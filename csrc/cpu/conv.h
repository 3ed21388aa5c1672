// Convolutions from lists of kept weights: the part that does not depend on where the lists come from.
//
// A product with the matrix of weights needs the inputs as a matrix too, of as many columns as there are output
// positions: it is never built. A panel of it, at most 128 rows by at most 64 positions, is gathered into the first
// cache, and every output adds up the rows that its list names.
//
// Inputs are gathered from rows with their padding in place, and with columns sorted by their remainder modulo
// the stride, so that neighbouring positions always read neighbouring floats.
#pragma once

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"
#include "operators.h"
#include "tensors.h"

namespace supermask {
namespace {

constexpr int64_t kPanelRows = 128, kPanelWidth = 64, kChunk = 16, kLongestRun = 16;

// Where the first position finds the inputs of each row of a matrix, and the rows that make a panel.
struct Rows {
  std::vector<int64_t> offsets, cuts;

  int64_t blocks() const { return static_cast<int64_t>(cuts.size()) - 1; }
};

struct Geometry {
  int64_t images, channels, height, width, outputs, groups;
  int64_t kernel[2], stride[2], dilation[2], before[2], after[2];
  int64_t out[2];          // height and width of the output
  int64_t padded[2];       // those of the input with its padding
  int64_t pitch, columns;  // floats from one padded row to the next; those of one remainder
  int64_t group_channels, group_outputs, depth;

  bool in_a_row;  // whether all positions of an image read neighbouring floats

  int64_t plane() const { return padded[0] * pitch; }
  int64_t positions() const { return images * out[0] * out[1]; }
  int64_t blocks() const { return (depth + kPanelRows - 1) / kPanelRows; }

  // Where the first position finds the inputs of a tap, in the first channel of x.
  std::vector<int64_t> taps() const {
    std::vector<int64_t> offsets;
    for (int64_t i = 0; i < kernel[0]; ++i)
      for (int64_t j = 0; j < kernel[1]; ++j) {
        const int64_t x = j * dilation[1];
        offsets.push_back(i * dilation[0] * pitch + x % stride[1] * columns + x / stride[1]);
      }
    return offsets;
  }

  // The rows of the matrix of inputs by (channel, tap), in the first group, in blocks of kPanelRows.
  Rows rows_by_channel() const {
    Rows rows;
    const std::vector<int64_t> places = taps();
    for (int64_t channel = 0; channel < group_channels; ++channel)
      for (const int64_t place : places) rows.offsets.push_back(channel * plane() + place);
    for (int64_t block = 0; block <= blocks(); ++block) rows.cuts.push_back(std::min(block * kPanelRows, depth));
    return rows;
  }

  // Where positions [first, first + count) find theirs, relative to the first position of all.
  void runs(int64_t first, int64_t count, std::vector<Run>& to) const {
    to.clear();
    for (int64_t done = 0; done < count;) {
      const int64_t position = first + done, line = position / out[1], column = position % out[1];
      const int64_t from =
          line / out[0] * channels * plane() + line % out[0] * stride[0] * pitch + column;
      const int64_t whole = in_a_row ? out[0] * out[1] - position % (out[0] * out[1]) : out[1] - column;
      const int64_t take = std::min({count - done, whole, kLongestRun});
      to.push_back({from, take, done});
      done += take;
    }
  }
};

Geometry check_geometry(const Tensor& x, int64_t outputs, const op::Counts& kernel, const op::Counts& stride,
                        const op::Counts& padding, const op::Counts& dilation, int64_t groups) {
  const auto positive = [](const op::Counts& values, size_t count, int64_t least, const char* what) {
    check(values.size() == count && *std::min_element(values.begin(), values.end()) >= least, what, " must be ",
          count, " integers from ", least, " on");
  };
  positive(kernel, 2, 1, "kernel");
  positive(stride, 2, 1, "stride");
  positive(dilation, 2, 1, "dilation");
  positive(padding, 4, 0, "padding");
  Geometry g = {};
  g.images = x.size(0), g.channels = x.size(1), g.height = x.size(2), g.width = x.size(3);
  g.outputs = outputs, g.groups = groups;
  check(groups >= 1 && g.channels % groups == 0, "groups must divide the ", g.channels, " channels of x, but is ",
        groups);
  check(outputs >= 0 && outputs % groups == 0, "outputs must be a multiple of groups, ", groups, ", but is ",
        outputs);
  const int64_t sizes[2] = {g.height, g.width};
  for (int i = 0; i < 2; ++i) {
    g.kernel[i] = kernel[i], g.stride[i] = stride[i], g.dilation[i] = dilation[i];
    g.before[i] = padding[2 * i], g.after[i] = padding[2 * i + 1];
    g.padded[i] = sizes[i] + g.before[i] + g.after[i];
    const int64_t reach = dilation[i] * (kernel[i] - 1) + 1;
    check(g.padded[i] >= reach, "kernel reaches over ", reach, " inputs, but x with its padding has ",
          g.padded[i]);
    g.out[i] = (g.padded[i] - reach) / stride[i] + 1;
  }
  g.columns = (g.padded[1] + g.stride[1] - 1) / g.stride[1];
  g.pitch = g.columns * g.stride[1];
  const int64_t planes = std::max<int64_t>(1, g.images * g.channels);
  check(g.stride[1] <= (int64_t{1} << 31) && g.padded[0] <= (int64_t{1} << 31) &&
            g.padded[1] <= (int64_t{1} << 31) &&
            g.padded[0] <= (int64_t{1} << 40) / std::max<int64_t>(1, g.pitch) / planes,
        "x with its padding is too large");
  g.in_a_row = g.stride[0] == 1 && g.pitch == g.out[1];
  g.group_channels = g.channels / groups, g.group_outputs = outputs / groups;
  g.depth = g.group_channels * g.kernel[0] * g.kernel[1];
  return g;
}

// Floats at a cache line's start.
class Buffer {
 public:
  explicit Buffer(int64_t count) : data_(new (std::align_val_t(64)) float[count]) {}
  ~Buffer() { ::operator delete[](data_, std::align_val_t(64)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  float* get() const { return data_; }

 private:
  float* data_;
};

// Which of the padded rows or columns, modulo `period`, an output position reads.
std::vector<char> used(const Geometry& g, int dimension, int64_t period) {
  std::vector<char> flags(period);
  for (int64_t tap = 0; tap < g.kernel[dimension]; ++tap)
    for (int64_t i = 0; i < g.out[dimension]; ++i)
      flags[(i * g.stride[dimension] + tap * g.dilation[dimension]) % period] = 1;
  return flags;
}

// The inputs as float32 with their padding, columns sorted by their remainder; what no output reads stays as
// it was.
void pad(const Geometry& g, const void* x, Dtype dtype, float* padded) {
  const int64_t row_bytes = g.width * static_cast<int64_t>(size_of(dtype));
  const std::vector<char> rows = used(g, 0, g.padded[0]), remainders = used(g, 1, g.stride[1]);
  const int64_t grain = 1 + (1 << 16) / (g.plane() + 1);
  torch::stable::parallel_for(0, g.images * g.channels, grain, [&](int64_t from, int64_t to) {
    std::vector<float> row(g.width);
    for (int64_t plane = from; plane < to; ++plane)
      for (int64_t y = 0; y < g.padded[0]; ++y) {
        if (!rows[y]) continue;
        float* target = padded + plane * g.plane() + y * g.pitch;
        const int64_t line = y - g.before[0];
        if (line < 0 || line >= g.height) {
          std::fill_n(target, g.pitch, 0.0f);
          continue;
        }
        const void* source = static_cast<const char*>(x) + (plane * g.height + line) * row_bytes;
        const void* values = source;
        if (dtype != Dtype::float32) {
          kernels().float32.load(dtype, source, g.width, row.data());
          values = row.data();
        }
        for (int64_t remainder = 0; remainder < g.stride[1]; ++remainder)
          if (remainders[remainder])
            kernels().pad_row(static_cast<const float*>(values), g.width, remainder - g.before[1], g.stride[1],
                              g.columns, target + remainder * g.columns);
      }
  });
}

// The same of float32 inputs in channels_last.
void pad_channels_last(const Geometry& g, const float* x, float* padded) {
  const std::vector<char> rows = used(g, 0, g.padded[0]), remainders = used(g, 1, g.stride[1]);
  const int64_t grain = 1 + (1 << 16) / (g.channels * g.pitch + 1);
  torch::stable::parallel_for(0, g.images * g.padded[0], grain, [&](int64_t from, int64_t to) {
    std::vector<float> line(g.channels * g.width, 0.0f);  // of all channels, one after the other
    for (int64_t unit = from; unit < to; ++unit) {
      const int64_t image = unit / g.padded[0], y = unit % g.padded[0], inside = y - g.before[0];
      if (!rows[y]) continue;
      const bool empty = inside < 0 || inside >= g.height;
      if (!empty)
        kernels().transpose(x + (image * g.height + inside) * g.width * g.channels, g.width, g.channels, g.channels,
                            line.data(), g.width);
      for (int64_t channel = 0; channel < g.channels; ++channel) {
        float* target = padded + (image * g.channels + channel) * g.plane() + y * g.pitch;
        for (int64_t remainder = 0; remainder < g.stride[1]; ++remainder)
          if (remainders[remainder])
            kernels().pad_row(line.data() + channel * g.width, empty ? 0 : g.width, remainder - g.before[1],
                              g.stride[1], g.columns, target + remainder * g.columns);
      }
    }
  });
}

// The convolution of x, in its memory format, which may be channels_last for float32. add(wide, panel, block, first,
// rows, sums) adds the panel of a block to the sums of `rows` outputs from `first` on.
template <class Add>
Tensor convolve(const Geometry& g, const Rows& matrix, const Tensor& x, float scale, const std::optional<Tensor>& bias,
                Add add) {
  const int64_t outputs = g.outputs;
  const Dtype dtype = check_float(x, "x");
  check(dtype != Dtype::float64, "x must be a float32, bfloat16 or float16 tensor");
  const float* shift = check_bias(bias, outputs);
  const bool last = !x.is_contiguous();  // the channels
  const auto format = last ? torch::headeronly::MemoryFormat::ChannelsLast : torch::headeronly::MemoryFormat::Contiguous;
  const Tensor result = torch::stable::empty({g.images, outputs, g.out[0], g.out[1]}, x.scalar_type(), std::nullopt,
                                             std::nullopt, std::nullopt, format);
  const int64_t positions = g.positions(), tiles = (positions + kPanelWidth - 1) / kPanelWidth;
  if (!positions || !outputs) return result;

  const bool in_place = !last && dtype == Dtype::float32 && g.plane() == g.height * g.width && g.stride[1] == 1;
  const Buffer copy(in_place ? 0 : g.images * g.channels * g.plane());
  if (last)
    pad_channels_last(g, static_cast<const float*>(x.data_ptr()), copy.get());
  else if (!in_place)
    pad(g, x.data_ptr(), dtype, copy.get());
  const float* inputs = in_place ? static_cast<const float*>(x.data_ptr()) : copy.get();
  char* const out = static_cast<char*>(result.mutable_data_ptr());
  const int64_t area = g.out[0] * g.out[1], size = static_cast<int64_t>(size_of(dtype));

  // Outputs [from, to) of one group at one tile of positions.
  const auto compute = [&](int64_t tile, int64_t group, int64_t from, int64_t to, float* panel, float* sums,
                           std::vector<Run>& runs) {
    const int64_t first = tile * kPanelWidth, count = std::min(kPanelWidth, positions - first);
    const int64_t wide = (count + 15) / 16, width = 16 * wide, row = group * g.group_outputs + from;
    g.runs(first, count, runs);
    std::fill_n(sums, (to - from) * width, 0.0f);
    const float* origin = inputs + group * g.group_channels * g.plane();
    for (int64_t block = 0; block < matrix.blocks(); ++block) {
      const int64_t begin = matrix.cuts[block], rows = matrix.cuts[block + 1] - begin;
      kernels().pack_panel(origin, matrix.offsets.data() + begin, rows, runs.data(), runs.size(), width, panel);
      add(wide, panel, block, row, to - from, sums);
    }
    kernels().scale_rows(sums, to - from, width, scale, shift ? shift + row : nullptr);
    if (last)
      return kernels().transpose(sums, to - from, count, width,
                                 reinterpret_cast<float*>(out) + first * outputs + row, outputs);
    for (int64_t done = 0; done < count;) {  // the tile's share of each image
      const int64_t image = (first + done) / area, place = (first + done) % area;
      const int64_t take = std::min(count - done, area - place);
      for (int64_t i = 0; i < to - from; ++i)
        kernels().float32.store(dtype, sums + i * width + done, take,
                                out + ((image * outputs + row + i) * area + place) * size);
      done += take;
    }
  };

  // Threads share the tiles and, where those are few, the outputs of a tile.
  const int64_t chunks = (g.group_outputs + kChunk - 1) / kChunk, units = tiles * g.groups * chunks;
  const int64_t work = kChunk * g.depth * std::min(positions, kPanelWidth);  // 0 without channels
  const int64_t grain = 1 + (1 << 20) / std::max<int64_t>(work, 1);
  torch::stable::parallel_for(0, units, grain, [&](int64_t from, int64_t to) {
    // Rows for every value of an entry, so that none, however wrong, points outside.
    const Buffer panel(256 * kPanelWidth + 16), sums(g.group_outputs * kPanelWidth);
    std::fill_n(panel.get(), 256 * kPanelWidth + 16, 0.0f);
    std::vector<Run> runs;
    for (int64_t unit = from; unit < to;) {
      const int64_t chunk = unit % chunks, last = std::min(chunks, chunk + to - unit);
      compute(unit / chunks / g.groups, unit / chunks % g.groups, chunk * kChunk,
              std::min(last * kChunk, g.group_outputs), panel.get(), sums.get(), runs);
      unit += last - chunk;
    }
  });
  return result;
}

}  // namespace
}  // namespace supermask
