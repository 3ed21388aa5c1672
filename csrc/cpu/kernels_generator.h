// Inner loops of the generator; see kernels.h. Included by kernels.cpp alone.
#pragma once

#include "kernels.h"
#include "supermask/distributions.h"
#include "supermask/philox.h"

namespace supermask {
namespace {

constexpr int kLanes = 64;  // Philox blocks drawn side by side

struct Words {
  alignas(64) uint32_t word[4][kLanes];
};

void draw(uint64_t key, uint64_t block, Words& words) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const PhiloxBlock drawn = philox(key, block + lane);
    words.word[0][lane] = drawn.word[0];
    words.word[1][lane] = drawn.word[1];
    words.word[2][lane] = drawn.word[2];
    words.word[3][lane] = drawn.word[3];
  }
}

// Draw in groups of kLanes blocks and hand each group, with the number of its blocks that count, to `emit`.
template <class Emit>
inline void for_each_group(uint64_t key, uint64_t block, int64_t count, Emit emit) {
  Words words;
  for (int64_t done = 0; done < count; done += kLanes) {
    draw(key, block + done, words);
    emit(words, done, count - done < kLanes ? static_cast<int>(count - done) : kLanes);
  }
}

void words(uint64_t key, uint64_t block, int64_t count, int64_t* out) {
  for_each_group(key, block, count, [=](const Words& words, int64_t done, int blocks) {
    int64_t* target = out + 4 * done;
    for (int lane = 0; lane < blocks; ++lane)
      for (int i = 0; i < 4; ++i) target[4 * lane + i] = words.word[i][lane];
  });
}

void sign(uint64_t key, uint64_t block, int64_t count, float scale, float* out) {
  for_each_group(key, block, count, [=](const Words& words, int64_t done, int blocks) {
    for (int i = 0; i < 4 * blocks; ++i) {
      const uint32_t word = words.word[i & 3][i >> 2];
      float* target = out + 128 * done + 32 * i;
      for (int bit = 0; bit < 32; ++bit) target[bit] = unit_sign(word, bit) * scale;
    }
  });
}

void uniform(uint64_t key, uint64_t block, int64_t count, float scale, float* out) {
  for_each_group(key, block, count, [=](const Words& words, int64_t done, int blocks) {
    float* target = out + 4 * done;
    for (int lane = 0; lane < blocks; ++lane)
      for (int i = 0; i < 4; ++i) target[4 * lane + i] = unit_uniform(words.word[i][lane]) * scale;
  });
}

void normal(uint64_t key, uint64_t block, int64_t count, float scale, float* out) {
  for_each_group(key, block, count, [=](const Words& words, int64_t done, int blocks) {
    alignas(64) float values[4][kLanes];
    for (int pair = 0; pair < 2; ++pair)
      for (int lane = 0; lane < kLanes; ++lane) {
        const Point point = unit_normals(words.word[2 * pair][lane], words.word[2 * pair + 1][lane]);
        values[2 * pair][lane] = point.x * scale;
        values[2 * pair + 1][lane] = point.y * scale;
      }
    float* target = out + 4 * done;
    for (int lane = 0; lane < blocks; ++lane)
      for (int i = 0; i < 4; ++i) target[4 * lane + i] = values[i][lane];
  });
}

}  // namespace
}  // namespace supermask
