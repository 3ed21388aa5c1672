// Elements of a generator's stream, four neighbours at a time: what one CUDA thread draws.
#pragma once

#include <cstdint>

#include "supermask/distributions.h"
#include "supermask/philox.h"

namespace supermask {

enum class Scheme : int { sign, uniform, normal };

struct Four {
  float value[4];
};

// Elements 4·quad to 4·quad + 3 of the stream of `key`, times `scale`.
template <Scheme kScheme>
SUPERMASK_HD Four draw_four(uint64_t key, uint64_t quad, float scale) {
  if constexpr (kScheme == Scheme::sign) {
    // 128 signs a block: 32 quads, eight of them in each word. No word is named by a variable index, which
    // would send the block through memory.
    const PhiloxBlock block = philox(key, quad / 32);
    const bool upper = quad & 16u, odd = quad & 8u;
    const uint32_t even_word = upper ? block.word[2] : block.word[0];
    const uint32_t odd_word = upper ? block.word[3] : block.word[1];
    const uint32_t word = (odd ? odd_word : even_word) >> (4 * (quad % 8));
    return {{times(unit_sign(word, 0), scale), times(unit_sign(word, 1), scale),
             times(unit_sign(word, 2), scale), times(unit_sign(word, 3), scale)}};
  } else {
    const PhiloxBlock block = philox(key, quad);
    if constexpr (kScheme == Scheme::uniform) {
      return {{times(unit_uniform(block.word[0]), scale), times(unit_uniform(block.word[1]), scale),
               times(unit_uniform(block.word[2]), scale), times(unit_uniform(block.word[3]), scale)}};
    }
    const Point first = unit_normals(block.word[0], block.word[1]);
    const Point second = unit_normals(block.word[2], block.word[3]);
    return {{times(first.x, scale), times(first.y, scale), times(second.x, scale), times(second.y, scale)}};
  }
}

}  // namespace supermask
