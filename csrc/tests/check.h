// What the C++ tests share: counted failures, and random words.
#pragma once

#include <cstdio>
#include <cstdlib>

#include "supermask/philox.h"

inline int failures = 0;

inline void expect(bool holds, const char* what) {
  if (holds) return;
  if (++failures <= 20) std::printf("FAILED: %s\n", what);
}

inline int finish() {
  std::printf(failures ? "%d checks failed\n" : "all checks passed\n", failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}

inline uint32_t random_word(uint64_t index) { return supermask::philox(42, index / 4).word[index % 4]; }
