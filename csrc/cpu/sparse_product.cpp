// Products of a sparse matrix and a dense one, in time for what is not 0: the gradient of a linear layer's weights,
// whose gradients of outputs a ReLU leaves half 0, and layers with sparse weights.
//
// A row of the sparse matrix lists its values that are not 0. It adds up the rows of the dense matrix that they meet,
// each times the value, from a panel in the first cache: 128 rows by up to 64 columns of the dense matrix.
#include <algorithm>
#include <optional>

#include "nonzero_lists.h"
#include "operators.h"

namespace supermask::op {
namespace {

constexpr int64_t kMostRows = 256;    // of the product that are computed at once
constexpr int64_t kListed = 1 << 19;  // values of the sparse matrix that are listed at once, if a panel has no more

struct Matrix {
  const float* values;
  int64_t rows, columns;
};

Matrix check_matrix(const Tensor& tensor, const char* what) {
  check(tensor.is_cpu() && tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous() && tensor.dim() == 2,
        what, " must be a contiguous float32 matrix on the CPU");
  return {static_cast<const float*>(tensor.data_ptr()), tensor.sizes()[0], tensor.sizes()[1]};
}

// sparse · dense. What is turned lies in memory as its transpose.
struct Product {
  Matrix stored;      // the sparse matrix, or its transpose
  bool sparse_turned;
  Matrix dense;       // the dense matrix, or its transpose
  bool dense_turned;  // and then the product as well
  const float* bias;  // one value for each row of the product, or null

  int64_t rows() const { return sparse_turned ? stored.columns : stored.rows; }
  int64_t depth() const { return sparse_turned ? stored.rows : stored.columns; }
  int64_t columns() const { return dense_turned ? dense.rows : dense.columns; }
  int64_t blocks() const { return divide_up(depth(), kDepth); }
  // Rows that are computed at once: few enough to leave some for every thread, and for their lists to stay near.
  int64_t group() const {
    const int64_t share = divide_up(divide_up(rows(), kPanel), torch::stable::get_num_threads());
    const int64_t near = kListed / std::max<int64_t>(depth() * kPanel, 1);
    return kPanel * std::clamp<int64_t>(std::min(share, near), 1, kMostRows / kPanel);
  }
  int64_t width() const {
    const int64_t most = std::max<int64_t>(divide_up(columns(), kColumns), 1);
    return in_vectors(divide_up(columns(), most));
  }
  int64_t tiles() const { return columns() ? divide_up(columns(), width()) : 0; }  // of `width` columns, or fewer
  int64_t count(int64_t tile) const { return std::min(width(), columns() - tile * width()); }

  // Rows from `first` on, by a place for each block.
  void list(int64_t first, int64_t high, const Lists& lists) const {
    const int64_t bytes = 4 * width();
    for (int64_t block = 0; block < blocks(); ++block) lists.begin(block);
    if (!sparse_turned) {
      const float* row = stored.values + first * stored.columns;
      for (int64_t i = 0; i < high; ++i, row += stored.columns)  // each to its end, as it lies in memory
        for (int64_t block = 0; block < blocks(); ++block)
          lists.append(block, i, row + block * kDepth, std::min(kDepth, depth() - block * kDepth), bytes);
      return;
    }
    alignas(64) float turned[kPanel * kDepth];
    for (int64_t block = 0; block < blocks(); ++block)
      for (int64_t i = 0; i < high; i += kPanel) {
        const int64_t row = block * kDepth, some = std::min(kDepth, depth() - row), wide = std::min(kPanel, high - i);
        const float* from = stored.values + row * stored.columns + first + i;
        kernels().transpose(from, some, wide, stored.columns, turned, kDepth);
        for (int64_t j = 0; j < wide; ++j) lists.append(block, i + j, turned + j * kDepth, some, bytes);
      }
  }

  // A tile of the dense matrix in rows of the width; zeros fill them up.
  void pack(int64_t tile, float* packed) const {
    const int64_t first = tile * width(), wide = count(tile), apart = width();
    if (wide < apart) std::fill_n(packed, depth() * apart, 0.0f);
    if (dense_turned)
      return kernels().transpose(dense.values + first * dense.columns, wide, depth(), dense.columns, packed, apart);
    for (int64_t row = 0; row < depth(); ++row)
      std::copy_n(dense.values + row * dense.columns + first, wide, packed + row * apart);
  }

  // The product's rows from `first` on and columns of one tile; `packed` are all tiles, `own` has room for the rows.
  void add(const Lists& lists, const float* packed, int64_t tile, int64_t first, int64_t high, float* own,
           float* out) const {
    const int64_t column = tile * width(), wide = count(tile), size = depth() * width();
    const bool in_place = !dense_turned && wide == width() && !bias;
    float* const sums = in_place ? out + first * columns() + column : own;
    const int64_t apart = in_place ? columns() : width();
    if (!blocks())
      for (int64_t i = 0; i < high; ++i) std::fill_n(sums + i * apart, width(), 0.0f);
    for (int64_t block = 0; block < blocks(); ++block) {
      const float* here = packed + tile * size + block * kDepth * width();
      const bool last = block + 1 == blocks();  // then the first block of the next tile comes, or of the first tile
      const float* next = last ? packed + (tile + 1) % tiles() * size : here + kDepth * width();
      const int64_t lines = divide_up(std::min(kDepth, depth() - (last ? 0 : block + 1) * kDepth) * width() / 16, high);
      kernels().sum_entries[block > 0][width() / 16 - 1](here, lists.entries(block), lists.starts(block), high, sums,
                                                         apart, next, lines);
    }
    if (in_place) return;
    if (bias) kernels().scale_rows(sums, high, apart, 1.0f, bias + first);
    if (dense_turned) return kernels().transpose(sums, high, wide, apart, out + column * rows() + first, rows());
    for (int64_t i = 0; i < high; ++i) std::copy_n(sums + i * apart, wide, out + (first + i) * columns() + column);
  }

  Tensor compute() const {
    const Tensor result = dense_turned ? torch::stable::empty({columns(), rows()}, ScalarType::Float)
                                       : torch::stable::empty({rows(), columns()}, ScalarType::Float);
    float* const out = static_cast<float*>(result.mutable_data_ptr());
    const int64_t size = depth() * width();
    thread_local Scratch for_tiles;
    const Room tiled(for_tiles, tiles() * size);
    float* const packed = tiled.get();
    torch::stable::parallel_for(0, tiles(), grain(size), [&](int64_t from, int64_t to) {
      for (int64_t tile = from; tile < to; ++tile) pack(tile, packed + tile * size);
    });
    const int64_t many = group(), places = blocks();
    const int64_t for_lists = Lists::floats(places, many, kDepth);
    const int64_t groups = divide_up(rows(), many), work = depth() * many * columns();
    torch::stable::parallel_for(0, groups, grain(work), [&](int64_t from, int64_t to) {
      thread_local Scratch scratch;
      const Room room(scratch, for_lists + many * kColumns);
      const Lists lists(room.get(), places, many, kDepth);
      for (int64_t first = from * many; first < std::min(to * many, rows()); first += many) {
        const int64_t high = std::min(many, rows() - first);
        list(first, high, lists);
        float* const own = room.get() + for_lists;
        for (int64_t tile = 0; tile < tiles(); ++tile) add(lists, packed, tile, first, high, own, out);
      }
    });
    return result;
  }
};

}  // namespace

Tensor weight_gradient(Tensor grad, Tensor x) {
  const Matrix g = check_matrix(grad, "grad"), in = check_matrix(x, "x");
  check(g.rows == in.rows, "grad and x must have one row for each sample, but have ", g.rows, " and ", in.rows);
  return Product{g, true, in, false, nullptr}.compute();
}

Tensor sparse_linear(Tensor x, Tensor weights, bool transposed, std::optional<Tensor> bias) {
  const Matrix in = check_matrix(x, "x"), stored = check_matrix(weights, "weights");
  const int64_t inputs = transposed ? stored.rows : stored.columns;
  const int64_t outputs = transposed ? stored.columns : stored.rows;
  check(in.columns == inputs, "weights must have as many inputs as x has columns, ", in.columns, ", but have ", inputs);
  return Product{stored, transposed, in, true, check_bias(bias, outputs)}.compute();
}

}  // namespace supermask::op
