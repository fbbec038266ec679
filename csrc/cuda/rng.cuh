#pragma once

#include <cstdint>

#include "cuda/launch.h"

// rng.h on the GPU: the same numbers.
namespace rng_cuda {

struct Block {
  uint32_t word[4];
};

inline __device__ Block philox(uint64_t seed, uint64_t draw, uint32_t task, uint32_t lane) {
  uint32_t c0 = lane, c1 = task, c2 = static_cast<uint32_t>(draw), c3 = static_cast<uint32_t>(draw >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = __umulhi(0xD2511F53u, c0), high1 = __umulhi(0xCD9E8D57u, c2);
    const uint32_t low0 = 0xD2511F53u * c0, low1 = 0xCD9E8D57u * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// The lane's own 64 bits; two lanes share a block.
inline __device__ uint64_t bits64(uint64_t seed, uint64_t draw, uint32_t task, int64_t lane) {
  const Block block = philox(seed, draw, task, static_cast<uint32_t>(lane / 2));
  const bool odd = lane % 2 != 0;
  const uint32_t low = odd ? block.word[2] : block.word[0], high = odd ? block.word[3] : block.word[1];
  return low | (uint64_t{high} << 32);
}

inline __device__ double unit(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

inline __device__ int64_t below(uint64_t bits, int64_t size) {
  return static_cast<int64_t>(__umul64hi(bits, static_cast<uint64_t>(size)));
}

}  // namespace rng_cuda
