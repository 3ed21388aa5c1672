// Which element of a matrix each register of each lane holds in mma.sync.m16n8k16 (PTX ISA, "Matrix Fragments
// for mma.m16n8k16 with floating point type"). Only the emulation and its tests read these maps: the kernel
// relies on the hardware to have them.
#pragma once

#include "supermask/macros.h"

namespace supermask {

struct Element {
  int row, column;
};

// Element `i` of 8 of operand A, 16 by 16; two to a register.
SUPERMASK_HD Element fragment_a(int lane, int i) {
  return {lane / 4 + 8 * (i / 2 % 2), 2 * (lane % 4) + i % 2 + 8 * (i / 4)};
}

// Element `i` of 4 of operand B, 16 by 8; two to a register.
SUPERMASK_HD Element fragment_b(int lane, int i) {
  return {2 * (lane % 4) + i % 2 + 8 * (i / 2), lane / 4};
}

// Element `i` of 4 of the accumulator, 16 by 8; one to a register.
SUPERMASK_HD Element fragment_c(int lane, int i) {
  return {lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2};
}

}  // namespace supermask
