// Device memory for the selection within tensors, from torch's allocator.
#pragma once

#include "arguments.h"
#include "selection.h"

namespace supermask::cuda {

// Numbers the tiles of `tensors` and holds memory for them.
template <class Item>
class TileWorkspace {
 public:
  TileWorkspace(const Scope& scope, std::vector<Selected<Item>>& tensors)
      : memory_(allocate(scope, tensors)) {}

  TileMemory memory() const {
    char* const data = static_cast<char*>(memory_.data_ptr());
    char* const ranked = data + tiles_ * kSlots * sizeof(uint64_t);  // what is aligned to most comes first
    char* const tiles = ranked + sizeof(RankedSegment<float>);
    return {reinterpret_cast<Tile*>(tiles), reinterpret_cast<uint64_t*>(data),
            reinterpret_cast<unsigned*>(tiles + tiles_ * sizeof(Tile)),
            reinterpret_cast<RankedSegment<float>*>(ranked)};
  }

 private:
  Tensor allocate(const Scope& scope, std::vector<Selected<Item>>& tensors) {
    for (Selected<Item>& tensor : tensors) {
      tensor.segment.first_tile = tiles_;
      tiles_ += tensor.segment.tiles();
    }
    const int64_t bytes = tiles_ * static_cast<int64_t>(kSlots * sizeof(uint64_t) + sizeof(Tile)) +
                          static_cast<int64_t>(sizeof(RankedSegment<float>) + tensors.size() * sizeof(unsigned));
    return scope.empty({bytes}, ScalarType::Byte);
  }

  int64_t tiles_ = 0;
  Tensor memory_;
};

}  // namespace supermask::cuda
