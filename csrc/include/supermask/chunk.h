// Several tensors in one launch: what the kernel must know of each travels with its parameters, so that
// nothing is copied beforehand and a CUDA graph holds it all.
#pragma once

#include <cstdint>

#include "supermask/macros.h"

namespace supermask {

template <class Item>
struct Chunk {
  static constexpr int kItems = 48;

  int count;
  unsigned first_block[kItems + 1];  // item i has blocks first_block[i] to first_block[i + 1]
  Item items[kItems];

  SUPERMASK_MEMBER int item_of(unsigned block) const {
    int low = 0, high = count - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      first_block[middle] <= block ? low = middle : high = middle - 1;
    }
    return low;
  }
};

// Calls launch(chunk, blocks) for as many chunks as the items take; blocks_of(item) may be 0.
template <class Items, class BlocksOf, class Launch>
inline void for_chunks(const Items& items, BlocksOf blocks_of, Launch launch) {
  using Item = typename Items::value_type;
  Chunk<Item> chunk = {};
  const auto flush = [&] {
    if (chunk.first_block[chunk.count]) launch(chunk, chunk.first_block[chunk.count]);
    chunk.count = 0;
  };
  for (const Item& item : items) {
    const int64_t blocks = blocks_of(item);
    if (chunk.count == Chunk<Item>::kItems || chunk.first_block[chunk.count] + blocks > INT32_MAX) flush();
    chunk.items[chunk.count] = item;
    chunk.first_block[chunk.count + 1] = chunk.first_block[chunk.count] + static_cast<unsigned>(blocks);
    ++chunk.count;
  }
  flush();
}

}  // namespace supermask
