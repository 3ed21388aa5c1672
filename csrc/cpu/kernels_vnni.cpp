// The inner loops that gain from AVX-512 VNNI, which multiplies four bytes with four and adds up in 32 bits.
#include "kernels_int8.h"

namespace supermask {

extern const Int8Kernels int8_kernels_vnni;
const Int8Kernels int8_kernels_vnni = {
    {multiply_int8<1>, multiply_int8<2>, multiply_int8<3>, multiply_int8<4>}, round_to_int8};

}  // namespace supermask
