// What the C++ tests share: a check that counts failures, and random words.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "supermask/philox.h"

namespace {

int failures = 0;

void expect(bool holds, const char* what) {
  if (holds) return;
  if (++failures <= 20) std::printf("FAILED: %s\n", what);
}

uint32_t random_word(uint64_t index) { return supermask::philox(42, index / 4).word[index % 4]; }

int report() {
  std::printf(failures ? "%d checks failed\n" : "all checks passed\n", failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}

}  // namespace
