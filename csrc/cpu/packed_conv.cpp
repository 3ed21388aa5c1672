// Convolutions computed from lists of the kept weights: +σ and -σ, or any with their values beside them.
//
// The lists are of the matrix of outputs by (channel of the group, row, column); supermask/ops/layouts.py has them. A
// product with that matrix needs the inputs as a matrix too, of as many columns as there are output positions:
// it is never built. A panel of it, 128 rows by at most 64 positions, is gathered into the first cache, and
// every output adds up the rows that its list names.
//
// Inputs are gathered from rows with their padding in place, and with columns sorted by their remainder modulo
// the stride, so that neighbouring positions always read neighbouring floats.
#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"
#include "lists.h"
#include "operators.h"

namespace supermask::op {
namespace {

constexpr int64_t kPanelRows = 128, kPanelWidth = 64, kChunk = 16, kLongestRun = 16;

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

Geometry check_geometry(const Tensor& x, int64_t outputs, const Counts& kernel, const Counts& stride,
                        const Counts& padding, const Counts& dilation, int64_t groups) {
  check(x.is_cpu() && x.dim() == 4 && x.is_contiguous(),
        "x must be a contiguous tensor of four dimensions on the CPU");
  const auto positive = [](const Counts& values, size_t count, int64_t least, const char* what) {
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

// The convolution of x. add(wide, panel, first, rows, sums) adds a panel's part to the sums of `rows` outputs, from
// the lists of block and output `first` on (block · outputs + output).
template <class Add>
Tensor convolve(const Geometry& g, const Tensor& x, float scale, const std::optional<Tensor>& bias, Add add) {
  const int64_t outputs = g.outputs;
  const Dtype dtype = check_float(x, "x");
  check(dtype != Dtype::float64, "x must be a float32, bfloat16 or float16 tensor");
  const float* shift = check_bias(bias, outputs);
  const Tensor result = torch::stable::empty({g.images, outputs, g.out[0], g.out[1]}, x.scalar_type());
  const int64_t positions = g.positions(), tiles = (positions + kPanelWidth - 1) / kPanelWidth;
  if (!positions || !outputs) return result;

  const bool in_place = dtype == Dtype::float32 && g.plane() == g.height * g.width && g.stride[1] == 1;
  const Buffer copy(in_place ? 0 : g.images * g.channels * g.plane());
  if (!in_place) pad(g, x.data_ptr(), dtype, copy.get());
  const float* inputs = in_place ? static_cast<const float*>(x.data_ptr()) : copy.get();
  char* const out = static_cast<char*>(result.mutable_data_ptr());
  const std::vector<int64_t> taps = g.taps();
  const int64_t area = g.out[0] * g.out[1], size = static_cast<int64_t>(size_of(dtype));

  // Outputs [from, to) of one group at one tile of positions.
  const auto compute = [&](int64_t tile, int64_t group, int64_t from, int64_t to, float* panel, float* sums,
                           std::vector<Run>& runs) {
    const int64_t first = tile * kPanelWidth, count = std::min(kPanelWidth, positions - first);
    const int64_t wide = (count + 15) / 16, width = 16 * wide, row = group * g.group_outputs + from;
    g.runs(first, count, runs);
    std::fill_n(sums, (to - from) * width, 0.0f);
    int64_t offsets[kPanelRows], channel = group * g.group_channels * g.plane();
    size_t tap = 0;
    for (int64_t block = 0; block < g.blocks(); ++block) {
      const int64_t rows = std::min(kPanelRows, g.depth - block * kPanelRows);
      for (int64_t i = 0; i < rows; ++i) {
        offsets[i] = channel + taps[tap];
        if (++tap == taps.size()) tap = 0, channel += g.plane();
      }
      kernels().pack_panel(inputs, offsets, rows, runs.data(), runs.size(), width, panel);
      add(wide, panel, block * outputs + row, to - from, sums);
    }
    kernels().scale_rows(sums, to - from, width, scale, shift ? shift + row : nullptr);
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

Tensor conv_from_lists(Tensor x, Tensor starts, Tensor entries, int64_t outputs, Counts kernel, Counts stride,
                       Counts padding, Counts dilation, int64_t groups, double scale,
                       std::optional<Tensor> bias) {
  const Geometry g = check_geometry(x, outputs, kernel, stride, padding, dilation, groups);
  const ByteLists lists = check_lists(starts, entries, 2 * g.blocks() * outputs);
  return convolve(g, x, static_cast<float>(scale), bias,
                  [&](int64_t wide, const float* panel, int64_t first, int64_t rows, float* sums) {
                    kernels().add_listed[wide - 1](panel, lists.entries, lists.starts + 2 * first, rows, sums);
                  });
}

Tensor conv_from_values(Tensor x, Tensor starts, Tensor entries, Tensor values, int64_t outputs, Counts kernel,
                        Counts stride, Counts padding, Counts dilation, int64_t groups,
                        std::optional<Tensor> bias) {
  const Geometry g = check_geometry(x, outputs, kernel, stride, padding, dilation, groups);
  const ByteLists lists = check_lists(starts, entries, g.blocks() * outputs);
  const Dtype dtype = check_float(values, "values");
  check((dtype == Dtype::float32 || dtype == Dtype::bfloat16) && values.is_contiguous() && values.dim() == 1 &&
            values.numel() == entries.numel(),
        "values must be a contiguous float32 or bfloat16 tensor with one value for each of the ", entries.numel(),
        " entries");
  const auto run = [&](const auto& kernel, const auto& none) {
    using Value = std::decay_t<decltype(none)>;
    const Value* weights = values.numel() ? static_cast<const Value*>(values.data_ptr()) : &none;
    return convolve(g, x, 1.0f, bias,
                    [&](int64_t wide, const float* panel, int64_t first, int64_t rows, float* sums) {
                      kernel.add_weighted[wide - 1](panel, lists.entries, weights, lists.starts + first, rows,
                                                    sums);
                    });
  };
  return dtype == Dtype::float32 ? run(kernels().values_float32, 0.0f)
                                 : run(kernels().values_bfloat16, BFloat16{0});
}

}  // namespace supermask::op
