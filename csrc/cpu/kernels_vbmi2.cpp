// The inner loop that gains from AVX-512 VBMI2, which moves the bytes that a mask names together.
#include "kernels_bits.h"

namespace supermask {

extern const ListRows list_rows_vbmi2;
const ListRows list_rows_vbmi2 = list_rows;

}  // namespace supermask
