// The test of the tests: faults planted in kernels that are right otherwise are caught.
// clang-format off: it takes the place of a header that the others include
#include "cuda_on_host.h"
// clang-format on

#include <gtest/gtest.h>

#include "cuda/reduce.h"
#include "replay/flat_sum_tree.cuh"

namespace {

using cuda_on_host::in_every_order;

enum class Fault {
  none,
  no_barrier,
  no_second_barrier,
  tail,
  short_mask,
  absent_lanes,
  divergent_barrier,
  stale_shared
};

// sum[block] of 64 values a block, and of their neighbours' through shared memory: the launch of every trap.
template <Fault fault>
__global__ void neighbours(const float* x, int n, float* shifted, float* sum) {
  __shared__ float tile[64];
  __shared__ float scratch[2];
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), t = static_cast<int>(threadIdx.x);
  const bool inside = fault == Fault::tail ? i <= n : i < n;
  if (fault != Fault::stale_shared || blockIdx.x == 0) tile[t] = inside && i < n ? x[i] : 0.0f;
  if (fault != Fault::no_barrier) __syncthreads();
  const float neighbour = tile[(t + 1) % 64];
  if (fault != Fault::no_second_barrier) __syncthreads();
  tile[t] = neighbour;
  if (fault == Fault::divergent_barrier) {
    if (t < 7) __syncthreads();
  } else {
    __syncthreads();
  }
  if (inside) shifted[i] = tile[(t + 63) % 64] + tile[t];
  float value = neighbour;
  if (fault == Fault::short_mask) {
    for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(0xFFFFu, value, apart);
  }
  if (fault == Fault::absent_lanes && t % 32 < 16) value += __shfl_xor_sync(kAllLanes, value, 1);
  const float total = block_sum(value, scratch);
  if (t == 0) sum[blockIdx.x] = total;
}

// What the right kernel gives for 1, 2, ..., n; NaN marks what must not be written.
struct Result {
  std::vector<float> shifted, sum;
  bool operator==(const Result& other) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
    };
    return same(shifted, other.shifted) && same(sum, other.sum);
  }
};

constexpr int kCount = 150;

template <Fault fault>
Result run() {
  std::vector<float> x(kCount);
  std::iota(x.begin(), x.end(), 1.0f);
  Result result{std::vector<float>(3 * 64, NAN), std::vector<float>(3, NAN)};
  launch("neighbours", neighbours<fault>, 3, 64, 0, nullptr, x.data(), kCount, result.shifted.data(),
         result.sum.data());
  return result;
}

Result expected() {
  Result result{std::vector<float>(3 * 64, NAN), std::vector<float>(3, 0.0f)};
  const auto x = [](int block, int t) {
    const int i = 64 * block + t % 64;
    return i < kCount ? static_cast<float>(i + 1) : 0.0f;
  };
  for (int i = 0; i < 3 * 64; ++i) {
    if (i < kCount) result.shifted[i] = x(i / 64, i % 64) + x(i / 64, i % 64 + 1);
    result.sum[i / 64] += x(i / 64, i);
  }
  return result;
}

// In how many of the orders the fault shows as a wrong result or as an error.
template <Fault fault>
int caught() {
  int count = 0;
  in_every_order([&] {
    try {
      count += !(run<fault>() == expected());
    } catch (const CudaError&) {
      ++count;
    }
  });
  return count;
}

TEST(CudaOnHost, RunsARightKernelInEveryOrder) { EXPECT_EQ(caught<Fault::none>(), 0); }
TEST(CudaOnHost, CatchesAMissingBarrier) { EXPECT_GE(caught<Fault::no_barrier>(), 2); }
TEST(CudaOnHost, CatchesAMissingBarrierBeforeReuse) { EXPECT_GE(caught<Fault::no_second_barrier>(), 2); }
TEST(CudaOnHost, CatchesOneTooManyAtTheTail) { EXPECT_EQ(caught<Fault::tail>(), 4); }
TEST(CudaOnHost, CatchesAShortMask) { EXPECT_EQ(caught<Fault::short_mask>(), 4); }
TEST(CudaOnHost, CatchesAMaskOfLanesThatDoNotCome) { EXPECT_EQ(caught<Fault::absent_lanes>(), 4); }
TEST(CudaOnHost, CatchesABarrierThatNotAllReach) { EXPECT_EQ(caught<Fault::divergent_barrier>(), 4); }
TEST(CudaOnHost, PoisonsSharedMemoryBetweenBlocks) { EXPECT_EQ(caught<Fault::stale_shared>(), 4); }

// What no order of whole turns shows: sums of 16, then sums of 256, by the same threads, without a barrier
// between. The last thread to add repairs what the others did; on a GPU the last to write need not be.
template <bool barrier>
__global__ void two_levels(FlatSumTreeCuda tree) {
  tree.leaves[threadIdx.x * 8] = 1.0f;
  __syncthreads();
  tree.update_group(threadIdx.x / 2);
  if (barrier) __syncthreads();
  tree.update_block(threadIdx.x / 32);
}

template <bool barrier>
void add_levels() {
  std::vector<float> leaves(512), maxima16(32), maxima256(2);
  std::vector<double> sums16(32), sums256(2), prefix(3);
  const FlatSumTreeCuda tree{
      2, leaves.data(), sums16.data(), sums256.data(), prefix.data(), maxima16.data(), maxima256.data()};
  launch("two_levels", two_levels<barrier>, 1, 64, 0, nullptr, tree);
  EXPECT_EQ(sums256[0], 32.0);
  EXPECT_EQ(sums256[1], 32.0);
}

#ifdef MTRL_RACES
TEST(CudaOnHost, SeesARaceThatNoOrderShows) {
  in_every_order([] {
    add_levels<true>();
    try {
      add_levels<false>();
      FAIL() << "the kernel ended";
    } catch (const CudaError& error) {
      EXPECT_NE(std::string(error.what()).find("a race with thread "), std::string::npos) << error.what();
    }
  });
}

enum class Between { nothing, warp_barrier, warps };

template <Between between>
__global__ void hand_over(int* room, int* out) {
  const int t = static_cast<int>(threadIdx.x), from = between == Between::warps ? t ^ 32 : t ^ 1;
  room[t] = t;
  if (between != Between::nothing) __syncwarp();
  out[t] = room[from];
}

__global__ void over_blocks(int* room, bool fence) {
  if (fence) __threadfence();
  if (threadIdx.x == 0) *room = static_cast<int>(blockIdx.x);
}

__global__ void unwritten(float* out) {
  __shared__ float tile[2];
  if (blockIdx.x == 0) tile[0] = 1.0f;
  __syncthreads();
  out[blockIdx.x] = tile[0];
}

TEST(CudaOnHost, SeesWhatItsBlockNeverWrote) {
  std::vector<float> out(2);
  try {
    launch("unwritten", unwritten, 2, 1, 0, nullptr, out.data());
    FAIL() << "the kernel ended";
  } catch (const CudaError& error) {
    EXPECT_NE(std::string(error.what()).find("never written: thread 0 of block 1"), std::string::npos)
        << error.what();
  }
}

TEST(CudaOnHost, KnowsWhatOrdersLanesAndBlocks) {
  std::vector<int> room(64), out(64);
  const auto hand = [&](auto kernel) {
    launch("hand_over", kernel, 1, 64, 0, nullptr, room.data(), out.data());
  };
  in_every_order([&] {
    EXPECT_THROW(hand(hand_over<Between::nothing>), CudaError);
    EXPECT_NO_THROW(hand(hand_over<Between::warp_barrier>));
    EXPECT_THROW(hand(hand_over<Between::warps>), CudaError);
    EXPECT_THROW(launch("over_blocks", over_blocks, 2, 32, 0, nullptr, room.data(), false), CudaError);
    EXPECT_NO_THROW(launch("over_blocks", over_blocks, 2, 32, 0, nullptr, room.data(), true));
  });
}
#endif

__global__ void two_barriers() {
  if (threadIdx.x < 7) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

TEST(CudaOnHost, NamesTheThreadsThatWait) {
  try {
    launch("two_barriers", two_barriers, 1, 64, 0, nullptr);
    FAIL() << "the kernel ended";
  } catch (const CudaError& error) {
    EXPECT_NE(std::string(error.what()).find("thread 0 of block 0 at "), std::string::npos) << error.what();
  }
}

__global__ void dynamic_sums(int n, int reach, float* out) {
  float* tile = dynamic_shared<float>();
  for (int i = static_cast<int>(threadIdx.x); i < reach; i += static_cast<int>(blockDim.x)) tile[i] = 1.0f;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 0; i < n; ++i) *out += tile[i];
}

TEST(CudaOnHost, GivesDynamicSharedMemory) {
  in_every_order([] {
    float sum = 0.0f;
    launch("dynamic_sums", dynamic_sums, 1, 32, 100 * sizeof(float), nullptr, 100, 100, &sum);
    EXPECT_EQ(sum, 100.0f);
    const auto too_short = [&] {
      launch("dynamic_sums", dynamic_sums, 1, 32, 100 * sizeof(float), nullptr, 100, 99, &sum);
    };
#ifdef MTRL_RACES
    EXPECT_THROW(too_short(), CudaError) << "the last float was never written";
#else
    too_short();
    EXPECT_TRUE(std::isnan(sum)) << "the last float was never written";
#endif
  });
}

#ifdef MTRL_ASAN
TEST(CudaOnHostDeathTest, AddressSanitizerSeesPastDynamicSharedMemory) {
  float sum = 0.0f;
  EXPECT_DEATH(launch("dynamic_sums", dynamic_sums, 1, 32, 100 * sizeof(float), nullptr, 100, 101, &sum),
               "heap-buffer-overflow");
}
#endif

__global__ void collectives(unsigned* vote, int* from_next, int* from_below, int* from_third,
                            unsigned* order) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  vote[threadIdx.x] = __ballot_sync(kAllLanes, lane % 3 == 0);
  from_next[threadIdx.x] = __shfl_down_sync(kAllLanes, lane, 1);
  from_below[threadIdx.x] = __shfl_up_sync(kAllLanes, lane, 1);
  from_third[threadIdx.x] = __shfl_sync(kAllLanes, lane, 3);
  __syncwarp();
  atomicAdd(order, 1u << (threadIdx.x / 32));
}

TEST(CudaOnHost, CollectivesGiveWhatCudaDefines) {
  in_every_order([] {
    std::vector<unsigned> vote(64);
    std::vector<int> next(64), below(64), third(64);
    unsigned order = 0;
    launch("collectives", collectives, 1, 64, 0, nullptr, vote.data(), next.data(), below.data(),
           third.data(), &order);
    EXPECT_EQ(order, 32u + 64u);
    for (int t = 0; t < 64; ++t) {
      const int lane = t % 32;
      EXPECT_EQ(vote[t], 0x49249249u);
      EXPECT_EQ(next[t], std::min(lane + 1, 31));
      EXPECT_EQ(below[t], std::max(lane - 1, 0));
      EXPECT_EQ(third[t], 3);
    }
  });
}

__global__ void count_blocks(unsigned* counter, unsigned* lasts) {
  __shared__ bool last;
  if (is_last_block(counter, &last) && threadIdx.x == 0) ++*lasts;
}

TEST(CudaOnHost, OneBlockIsLastAndTheCounterIsReady) {
  unsigned counter = 0, lasts = 0;
  in_every_order([&] { launch("count_blocks", count_blocks, 5, 32, 0, nullptr, &counter, &lasts); });
  EXPECT_EQ(lasts, 4u);
  EXPECT_EQ(counter, 0u);
}

TEST(CudaOnHost, RefusesWhatNoGpuTakes) {
  unsigned counter = 0;
  EXPECT_THROW(launch("count_blocks", count_blocks, 0, 32, 0, nullptr, &counter, &counter), CudaError);
  EXPECT_THROW(launch("count_blocks", count_blocks, 1, 2048, 0, nullptr, &counter, &counter), CudaError);
}

}  // namespace
