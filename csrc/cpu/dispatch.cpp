// Which instruction set serves: decided once, at the first call.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace supermask {

extern const Kernels kernels_baseline;
#if defined(SUPERMASK_X86)
extern const Kernels kernels_avx2, kernels_avx512;
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

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace supermask
