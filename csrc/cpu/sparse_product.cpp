// Products of a sparse matrix and a dense one, in time for what is not 0: the gradient of a linear layer's weights,
// whose gradients of outputs a ReLU leaves half 0, and layers with sparse weights.
//
// A row of the sparse matrix lists its columns that are not 0. It adds up the rows of the dense matrix of those
// columns, each times the value, as a packed convolution adds up inputs: from a panel in the first cache, 128 rows by
// 64 columns of the dense matrix.
#include <algorithm>
#include <optional>

#include "batch.h"
#include "nonzero_lists.h"
#include "operators.h"

namespace supermask::op {
namespace {

constexpr int64_t kColumns = 64;  // of the dense matrix that are computed at once

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
  int64_t blocks() const { return divide_up(depth(), kListed); }
  int64_t panels() const { return divide_up(rows(), kPanel); }
  int64_t tiles() const { return divide_up(columns(), kColumns); }
  int64_t count(int64_t tile) const { return std::min(kColumns, columns() - tile * kColumns); }
  int64_t width(int64_t tile) const { return 16 * divide_up(count(tile), 16); }

  // The rows of a panel, by a place for each block.
  void list(int64_t panel, const NonzeroLists& lists) const {
    const int64_t first = panel * kPanel, high = std::min(kPanel, rows() - first);
    if (!sparse_turned)
      return lists.fill_rows(0, stored.values + first * stored.columns, stored.columns, high, depth());
    for (int64_t block = 0; block < blocks(); ++block) {
      const int64_t row = block * kListed;
      lists.fill_columns(block, stored.values + row * stored.columns + first, stored.columns, high,
                         std::min(kListed, depth() - row));
    }
  }

  // A tile of the dense matrix in rows of its width; zeros fill them up.
  void pack(int64_t tile, float* packed) const {
    const int64_t first = tile * kColumns, wide = count(tile), apart = width(tile);
    if (wide < apart) std::fill_n(packed, depth() * apart, 0.0f);
    if (dense_turned)
      return kernels().transpose(dense.values + first * dense.columns, wide, depth(), dense.columns, packed, apart);
    for (int64_t row = 0; row < depth(); ++row)
      std::copy_n(dense.values + row * dense.columns + first, wide, packed + row * apart);
  }

  // The product's rows of one panel and columns of one tile.
  void add(const NonzeroLists& lists, const float* packed, int64_t tile, int64_t panel, float* out) const {
    const int64_t first = panel * kPanel, high = std::min(kPanel, rows() - first), column = tile * kColumns;
    const int64_t wide = count(tile), apart = width(tile);
    const bool in_place = !dense_turned && wide == kColumns && blocks() > 0 && !bias;
    alignas(64) float sums[kPanel * kColumns];
    if (!in_place) std::fill_n(sums, high * apart, 0.0f);
    for (int64_t block = 0; block < blocks(); ++block) {
      const float* here = packed + block * kListed * apart;
      if (in_place)
        kernels().sum_weighted[block > 0](here, lists.entries(block), lists.values(block), lists.starts(block), high,
                                          columns(), out + first * columns() + column);
      else
        kernels().values_float32.add_weighted[apart / 16 - 1](here, lists.entries(block), lists.values(block),
                                                              lists.starts(block), high, sums);
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
    thread_local Scratch for_tiles;
    float* const packed = for_tiles.floats(tiles() * depth() * kColumns);
    torch::stable::parallel_for(0, tiles(), grain(depth() * kColumns), [&](int64_t from, int64_t to) {
      for (int64_t tile = from; tile < to; ++tile) pack(tile, packed + tile * depth() * kColumns);
    });
    torch::stable::parallel_for(0, panels(), grain(depth() * kPanel * columns()), [&](int64_t from, int64_t to) {
      thread_local Scratch for_lists;
      const NonzeroLists lists(blocks(), for_lists);
      for (int64_t panel = from; panel < to; ++panel) {
        list(panel, lists);
        for (int64_t tile = 0; tile < tiles(); ++tile)
          add(lists, packed + tile * depth() * kColumns, tile, panel, out);
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
