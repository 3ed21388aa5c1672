// Memory that a thread keeps between calls: a fresh one of a megabyte costs more page faults than a kernel
// takes time.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace supermask {

class Scratch {
 public:
  // Room for `count` floats, aligned to a cache line, holding anything.
  float* floats(int64_t count) {
    if (count > size_) {
      const int64_t size = (count + 15) / 16 * 16;
      memory_.reset(static_cast<float*>(std::aligned_alloc(64, size * sizeof(float))));
      size_ = memory_ ? size : 0;
      if (!memory_) throw std::bad_alloc();
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  std::unique_ptr<float, Free> memory_;
  int64_t size_ = 0;
};

constexpr int64_t kKept = 1 << 24;  // floats that a thread keeps for the next call; more are given back

// Memory that is kept for the next call, if it is not too much.
class Room {
 public:
  Room(Scratch& kept, int64_t count) : place_((count > kKept ? own_ : kept).floats(count)) {}
  float* get() const { return place_; }

 private:
  Scratch own_;
  float* place_;
};

}  // namespace supermask
