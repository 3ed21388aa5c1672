// See kernels.h. The loops are mostly plain C++ that the compiler vectorizes; no template or inline function
// of the standard library is used here, for the linker would merge its copies across instruction sets.
#include "kernels_bits.h"
#include "kernels_conv.h"
#include "kernels_generator.h"
#include "kernels_int8.h"
#include "kernels_lists.h"
#include "kernels_packed.h"
#include "kernels_planes.h"
#include "kernels_rows.h"
#include "kernels_select.h"
#include "kernels_tile.h"
#include "kernels_transpose.h"
#include "kernels_values.h"

#define SUPERMASK_JOIN_(a, b) a##b
#define SUPERMASK_JOIN(a, b) SUPERMASK_JOIN_(a, b)
#define SUPERMASK_QUOTE_(a) #a
#define SUPERMASK_QUOTE(a) SUPERMASK_QUOTE_(a)
#define SUPERMASK_TABLE SUPERMASK_JOIN(kernels_, SUPERMASK_ISA)

namespace supermask {
namespace {

template <Ranking ranking>
constexpr RankKernels<float> rank_float = {
#if defined(__AVX512BW__)
    classify_avx512<ranking>,
#elif defined(__AVX2__)
    classify_avx2<ranking>,
#else
    classify<ranking, float>,
#endif
    histogram<ranking, float>, n_of_m<ranking, float>};

template <class Value>
constexpr ValueKernels<Value> value_kernels = {
    dot_kept<Value, 1>,
    dot_kept<Value, 4>,
    dot_places_1<Value>,
    dot_places_8<Value>,
    {add_weighted<1, Value>, add_weighted<2, Value>, add_weighted<3, Value>, add_weighted<4, Value>}};

template <Ranking ranking>
constexpr RankKernels<double> rank_double = {classify<ranking, double>, histogram<ranking, double>,
                                             n_of_m<ranking, double>};

}  // namespace

extern const Kernels SUPERMASK_TABLE;
const Kernels SUPERMASK_TABLE = {
    .name = SUPERMASK_QUOTE(SUPERMASK_ISA),
    .sign = sign,
    .uniform = uniform,
    .normal = normal,
    .words = words,
    .float32 = {rank_float<Ranking::magnitude>, rank_float<Ranking::raw>, straight_through_tile<float>,
                masked_weights<float>, load<float>, store<float>},
    .float64 = {rank_double<Ranking::magnitude>, rank_double<Ranking::raw>, straight_through_tile<double>,
                masked_weights<double>, load<double>, store<double>},
    .edge_popup_sgd = move_scores<false>,
    .signed_supermask_sgd = move_scores<true>,
    .sum_of_squares = sum_of_squares,
    .scale = scale,
    .all_finite = all_finite,
    .signed_weights = signed_weights,
    .refresh_masked = refresh_masked,
    .clear_where = clear_where,
    .pack = pack,
    .unpack = unpack,
    .triple_sums = triple_sums,
    .look_up_1 = look_up<1>,
    .look_up_4 = look_up<4>,
    .triple_rows = triple_rows,
    .add_rows = add_rows,
    .subset_sums = subset_sums,
    .add_planes_1 = add_planes<1>,
    .add_planes_4 = add_planes<4>,
    .add_listed = {add_listed<1>, add_listed<2>, add_listed<3>, add_listed<4>},
    .add_ordered = {add_ordered<1>, add_ordered<2>, add_ordered<3>, add_ordered<4>},
    .pair_rows = pair_rows,
    .list_entries = list_entries,
    .sum_entries = {{sum_entries<1, false>, sum_entries<2, false>, sum_entries<3, false>, sum_entries<4, false>},
                    {sum_entries<1, true>, sum_entries<2, true>, sum_entries<3, true>, sum_entries<4, true>}},
    .values_float32 = value_kernels<float>,
    .values_bfloat16 = value_kernels<BFloat16>,
    .int8 = {{multiply_int8<1>, multiply_int8<2>, multiply_int8<3>, multiply_int8<4>}, round_to_int8},
    .sign_bits = sign_bits,
    .transpose_bits = transpose_bits,
    .count_bits = count_bits,
    .list_rows = list_rows,
    .transpose = transpose,
    .pad_row = pad_row,
    .pack_panel = pack_panel,
    .scale_rows = scale_rows,
};

}  // namespace supermask
