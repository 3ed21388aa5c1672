// A GPU on a CPU, for programs written against the `Gpu` of packed_mma.h: every thread of a cluster is a fiber
// that runs until it waits at a barrier. Warps have random priorities, and one that can run does so before all
// lower ones, so that a barrier that is missing shows as a wrong result. Shared memory is poisoned, and
// allocated to the byte, so that the address sanitizer sees every access beyond it. mma.sync follows
// fragments.h, in float and from left to right. wgmma reads its operands as soon as it may or, by a coin's toss, as
// late as it may, and finds in shared memory only what was shown to it.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#include "supermask/codes.h"
#include "supermask/fragments.h"

namespace supermask {

// Runs fibers until all have ended. A fiber gives way by `wait`.
class Fibers {
 public:
  // A place where `size` fibers wait for each other.
  struct Barrier {
    int size;
    std::vector<int> waiting;
  };

  explicit Fibers(uint64_t seed) : random_(seed) {}

  // 32 calls in a row make a warp.
  void add(std::function<void()> program) {
    if (fibers_.size() % kLanes == 0) warp_priority_ = random_();
    fibers_.push_back(std::make_unique<Fiber>());
    fibers_.back()->program = std::move(program);
    fibers_.back()->priority = {warp_priority_, random_()};
    make_ready(static_cast<int>(fibers_.size()) - 1);
  }

  // Whether all ended; otherwise some wait for fibers that never came.
  bool run() {
    for (auto& fiber : fibers_) {
      fiber->stack.reset(new char[kStackBytes]);
      getcontext(&fiber->context);
      fiber->context.uc_stack.ss_sp = fiber->stack.get();
      fiber->context.uc_stack.ss_size = kStackBytes;
      const auto self = reinterpret_cast<uintptr_t>(this);
      makecontext(&fiber->context, reinterpret_cast<void (*)()>(&Fibers::enter), 2,
                  static_cast<unsigned>(self), static_cast<unsigned>(self >> 32));
    }
    size_t ended = 0;
    while (!ready_.empty()) {
      current_ = ready_.begin()->second;
      ready_.erase(ready_.begin());
      Fiber& fiber = *fibers_[current_];
      before_switch(&scheduler_stack_, fiber.stack.get(), kStackBytes);
      swapcontext(&scheduler_, &fiber.context);
      after_switch(scheduler_stack_);
      ended += fiber.ended;
    }
    return ended == fibers_.size();
  }

  void wait(Barrier& barrier) {
    barrier.waiting.push_back(current_);
    if (static_cast<int>(barrier.waiting.size()) == barrier.size) {
      for (const int fiber : barrier.waiting) make_ready(fiber);
      barrier.waiting.clear();
    }
    Fiber& fiber = *fibers_[current_];
    before_switch(&fiber.fake_stack, scheduler_bottom_, scheduler_size_);
    swapcontext(&fiber.context, &scheduler_);
    after_switch(fiber.fake_stack);
  }

 private:
  static constexpr size_t kStackBytes = 1 << 17;

  using Priority = std::pair<uint64_t, uint64_t>;  // of the warp, and within it

  struct Fiber {
    std::function<void()> program;
    Priority priority;
    std::unique_ptr<char[]> stack;
    ucontext_t context;
    void* fake_stack = nullptr;
    bool ended = false;
  };

  void make_ready(int fiber) { ready_.insert({fibers_[fiber]->priority, fiber}); }

  static void enter(unsigned low, unsigned high) {
    auto* self = reinterpret_cast<Fibers*>(static_cast<uintptr_t>(high) << 32 | low);
    self->finish_first_switch();
    Fiber& fiber = *self->fibers_[self->current_];
    fiber.program();
    fiber.ended = true;
    self->before_switch(nullptr, self->scheduler_bottom_, self->scheduler_size_);
    swapcontext(&fiber.context, &self->scheduler_);
  }

  // The address sanitizer wants to know on which stack the program stands.
#if defined(__SANITIZE_ADDRESS__)
  void before_switch(void** save, const void* bottom, size_t size) {
    __sanitizer_start_switch_fiber(save, bottom, size);
  }
  void after_switch(void* saved) { __sanitizer_finish_switch_fiber(saved, nullptr, nullptr); }
  void finish_first_switch() {
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom_, &scheduler_size_);
  }
#else
  void before_switch(void**, const void*, size_t) {}
  void after_switch(void*) {}
  void finish_first_switch() {}
#endif

  std::minstd_rand random_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::set<std::pair<Priority, int>> ready_;
  uint64_t warp_priority_ = 0;
  int current_ = 0;
  ucontext_t scheduler_;
  void* scheduler_stack_ = nullptr;
  const void* scheduler_bottom_ = nullptr;
  size_t scheduler_size_ = 0;
};

// What the fibers of one block share.
struct EmulatedBlock {
  struct Warp {
    Fibers::Barrier barrier{kLanes, {}};
    uint32_t operands[2][kLanes][6];  // of this mma and of the last one, which a slow lane may still read
    const uint32_t (*of_wgmma[kLanes])[4];  // operand A in the registers of each lane
    int places[2][kLanes];                  // of the rows that stmatrix writes
  };

  EmulatedBlock(int threads, int shared_bytes, Fibers::Barrier* cluster)
      : shared(new (std::align_val_t{16}) char[shared_bytes]),
        bytes(shared_bytes),
        running(threads),
        barrier{threads, {}},
        cluster_barrier(cluster),
        warps(threads / kLanes) {
    poison();
  }
  EmulatedBlock(const EmulatedBlock&) = delete;
  ~EmulatedBlock() { ::operator delete[](shared, std::align_val_t{16}); }

  void poison() { std::memset(shared, 0xFF, bytes); }  // NaN in every format

  // A block's shared memory is lost once all its threads have ended.
  void end_thread() {
    if (--running == 0) poison();
  }

  char* shared;
  int bytes, running;
  Fibers::Barrier barrier;
  Fibers::Barrier* cluster_barrier;
  std::vector<Warp> warps;
};

// One thread's view of the machine.
class EmulatedGpu {
 public:
  EmulatedGpu(Fibers& fibers, std::vector<std::unique_ptr<EmulatedBlock>>& cluster, int rank, int thread,
              int block_x, int block_y, uint64_t seed)
      : fibers_(fibers), cluster_(cluster), rank_(rank), thread_(thread), x_(block_x), y_(block_y),
        coin_(seed ^ static_cast<uint64_t>(rank * 64 + thread / kLanes) << 8) {}  // the lanes of a warp agree

  int thread() const { return thread_; }
  int block_x() const { return x_; }
  int block_y() const { return y_; }
  void* shared() { return cluster_[rank_]->shared; }
  const float* shared_of(int rank) { return reinterpret_cast<const float*>(cluster_[rank]->shared); }
  void sync() { fibers_.wait(cluster_[rank_]->barrier); }
  void sync_cluster() { fibers_.wait(*cluster_[rank_]->cluster_barrier); }
  Words load_weights(const Words* from) { return *from; }

  template <class X>
  void mma(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    // float32 inputs come as bfloat16 terms.
    using Half = std::conditional_t<std::is_same_v<X, Float16>, Float16, BFloat16>;
    auto& warp = cluster_[rank_]->warps[thread_ / kLanes];
    auto& operands = warp.operands[turn_];
    turn_ ^= 1;
    const uint32_t own[6] = {a[0], a[1], a[2], a[3], b0, b1};
    std::copy_n(own, 6, operands[thread_ % kLanes]);
    fibers_.wait(warp.barrier);
    float left[16][16], right[16][8];
    for (int lane = 0; lane < kLanes; ++lane)
      for (int i = 0; i < 12; ++i) {
        const float value =
            to_float(Half{static_cast<uint16_t>(operands[lane][i / 2] >> (16 * (i % 2)))});
        const Element place = i < 8 ? fragment_a(lane, i) : fragment_b(lane, i - 8);
        (i < 8 ? left[place.row][place.column] : right[place.row][place.column]) = value;
      }
    for (int i = 0; i < 4; ++i) {
      const Element place = fragment_c(thread_ % kLanes, i);
      for (int k = 0; k < 16; ++k) sums[i] += left[place.row][k] * right[k][place.column];
    }
  }

  // --- wgmma

  uint32_t shared_address() const { return kSharedAddress; }

  // stmatrix: see the real one. What it writes, wgmma may see at once, but must not before `show_stores`.
  void store_matrices(int place, const Words& words) {
    auto& places = warp().places[turn_];
    turn_ ^= 1;
    places[lane()] = place;
    fibers_.wait(warp().barrier);
    const bool late = toss();
    for (int i = 0; i < 4; ++i) {
      const int to = places[8 * i + lane() / 4] + 4 * (lane() % 4);
      if (late) {
        hidden_.push_back({to, words.word[i]});
      } else {
        std::memcpy(cluster_[rank_]->shared + to, &words.word[i], 4);
      }
    }
  }

  void show_stores() {
    for (const auto& [to, word] : hidden_) std::memcpy(cluster_[rank_]->shared + to, &word, 4);
    hidden_.clear();
  }

  void begin_wgmma() { may_multiply_ = true; }

  template <class X, int kSums>
  void wgmma(float (&sums)[kSums], const uint32_t (&a)[4], uint64_t b) {
    if (!may_multiply_) sums[0] = std::numeric_limits<float>::quiet_NaN();
    open_.push_back([this, &sums, &a, b] { multiply<X>(sums, a, b); });
  }

  void commit_wgmma() {
    committed_.push_back(std::move(open_));
    open_.clear();
    if (toss()) finish(0);
  }

  template <int kGroups>
  void wait_wgmma() {
    finish(kGroups);
    may_multiply_ = false;  // registers are free to be written
  }

 private:
  static constexpr uint32_t kSharedAddress = 1024;  // the system's own memory comes first

  EmulatedBlock::Warp& warp() { return cluster_[rank_]->warps[thread_ / kLanes]; }
  int lane() const { return thread_ % kLanes; }

  bool toss() {
    coin_ = coin_ * 6364136223846793005u + 1442695040888963407u;
    return coin_ >> 63;
  }

  void finish(size_t groups) {
    while (committed_.size() > groups) {
      for (const auto& product : committed_.front()) product();
      committed_.erase(committed_.begin());
    }
  }

  template <class X, int kSums>
  void multiply(float (&sums)[kSums], const uint32_t (&a)[4], uint64_t descriptor) {
    warp().of_wgmma[lane()] = &a;
    fibers_.wait(warp().barrier);
    float left[2][16];  // the rows of this lane's sums
    for (int other = lane() / 4 * 4; other < lane() / 4 * 4 + 4; ++other)
      for (int i = 0; i < 8; ++i) {
        const Element place = fragment_a(other, i);
        left[place.row / 8][place.column] =
            to_float(X{static_cast<uint16_t>((*warp().of_wgmma[other])[i / 2] >> (16 * (i % 2)))});
      }
    for (int i = 0; i < kSums; ++i) {
      const Element place = fragment_c(lane(), i % 4);
      for (int k = 0; k < 16; ++k)
        sums[i] += left[place.row / 8][k] * to_float(X{operand_b(descriptor, i / 4 * 8 + place.column, k)});
    }
    fibers_.wait(warp().barrier);  // the registers are read
  }

  // A value of operand B, rows of 128 swizzled bytes, from the fields of its descriptor.
  uint16_t operand_b(uint64_t descriptor, int column, int k) const {
    const uint64_t start = (descriptor & 0x3FFF) << 4, stride = (descriptor >> 32 & 0x3FFF) << 4;
    const uint64_t base_offset = descriptor >> 49 & 7, swizzle = descriptor >> 62;
    if (base_offset != 0 || swizzle != 1) return 0x7FFF;  // NaN
    uint64_t address = start + column / 8 * stride + column % 8 * 128 + 2 * k;
    address ^= (address >> 7 & 7) << 4;
    uint16_t value;
    std::memcpy(&value, cluster_[rank_]->shared + (address - kSharedAddress), 2);
    return value;
  }

  Fibers& fibers_;
  std::vector<std::unique_ptr<EmulatedBlock>>& cluster_;
  int rank_, thread_, x_, y_;
  int turn_ = 0;
  uint64_t coin_;
  std::vector<std::pair<int, uint32_t>> hidden_;  // stores that wgmma does not see yet
  std::vector<std::function<void()>> open_;
  std::vector<std::vector<std::function<void()>>> committed_;
  bool may_multiply_ = false;
};

// Runs `program` in every thread of a grid of blocks_x by blocks_y blocks, cluster by cluster. False if a
// thread waited for ever.
template <class Program>
bool launch_emulated(int blocks_x, int blocks_y, int cluster_size, int threads, int shared_bytes, uint64_t seed,
                     const Program& program) {
  for (int y = 0; y < blocks_y; ++y)
    for (int x = 0; x < blocks_x; x += cluster_size) {
      Fibers fibers(seed + 1);
      Fibers::Barrier barrier{cluster_size * threads, {}};
      std::vector<std::unique_ptr<EmulatedBlock>> cluster;
      for (int rank = 0; rank < cluster_size; ++rank)
        cluster.push_back(std::make_unique<EmulatedBlock>(threads, shared_bytes, &barrier));
      for (int rank = 0; rank < cluster_size; ++rank)
        for (int thread = 0; thread < threads; ++thread)
          fibers.add([&, rank, thread, x, y] {
            EmulatedGpu gpu(fibers, cluster, rank, thread, x + rank, y, seed);
            program(gpu);
            cluster[rank]->end_thread();
          });
      if (!fibers.run()) return false;
    }
  return true;
}

}  // namespace supermask
