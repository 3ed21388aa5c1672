// Which instruction set serves: decided once, at the first call.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace supermask {

extern const Kernels kernels_baseline;
#if defined(SUPERMASK_X86)
extern const Kernels kernels_avx2, kernels_avx512;
extern const Int8Kernels int8_kernels_vnni;
extern const ListRows list_rows_vbmi2;
#endif

namespace {

const Kernels& choose() {
#if defined(SUPERMASK_X86)
  const char* limit = std::getenv("ATEN_CPU_CAPABILITY");
  const bool none = limit && !std::strcmp(limit, "default"), narrow = limit && !std::strcmp(limit, "avx2");
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && !none && !narrow) return kernels_avx512;
  if (avx2 && !none) return kernels_avx2;
#endif
  return kernels_baseline;
}

const Int8Kernels& choose_int8() {
#if defined(SUPERMASK_X86)
  if (&kernels() == &kernels_avx512 && __builtin_cpu_supports("avx512vnni")) return int8_kernels_vnni;
#endif
  return kernels().int8;
}

ListRows choose_list_rows() {
#if defined(SUPERMASK_X86)
  if (&kernels() == &kernels_avx512 && __builtin_cpu_supports("avx512vbmi2")) return list_rows_vbmi2;
#endif
  return kernels().list_rows;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

const Int8Kernels& int8_kernels() {
  static const Int8Kernels& chosen = choose_int8();
  return chosen;
}

ListRows list_rows_kernel() {
  static const ListRows chosen = choose_list_rows();
  return chosen;
}

}  // namespace supermask
