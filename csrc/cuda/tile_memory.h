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
    char* data = static_cast<char*>(memory_.data_ptr());
    return {reinterpret_cast<Tile*>(data + tiles_ * kSlots * sizeof(uint64_t)),
            reinterpret_cast<uint64_t*>(data)};
  }

 private:
  Tensor allocate(const Scope& scope, std::vector<Selected<Item>>& tensors) {
    for (Selected<Item>& tensor : tensors) {
      tensor.segment.first_tile = tiles_;
      tiles_ += tensor.segment.tiles();
    }
    return scope.empty({tiles_ * static_cast<int64_t>(kSlots * sizeof(uint64_t) + sizeof(Tile))},
                       ScalarType::Byte);
  }

  int64_t tiles_ = 0;
  Tensor memory_;
};

}  // namespace supermask::cuda
