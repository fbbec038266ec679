#pragma once

#include <cstdint>

// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as
// easy as 1, 2, 3"). A number is a pure function of (seed, draw, task, lane): it depends on no thread, no
// order and no state.
namespace rng {

struct Block {
  uint32_t word[4];
};

inline Block philox(uint64_t seed, uint64_t draw, uint32_t task, uint32_t lane) {
  uint32_t c0 = lane, c1 = task, c2 = static_cast<uint32_t>(draw), c3 = static_cast<uint32_t>(draw >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// One 64-bit number per lane; two lanes share a block.
inline uint64_t bits64(const Block& block, int64_t lane) {
  const int half = static_cast<int>(lane & 1) * 2;
  return block.word[half] | (uint64_t{block.word[half + 1]} << 32);
}

// [0, 1) in steps of 2^-53.
inline double unit(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

// [0, size); the bias is below size / 2^64.
inline int64_t below(uint64_t bits, int64_t size) {
  return static_cast<int64_t>((static_cast<unsigned __int128>(bits) * static_cast<uint64_t>(size)) >> 64);
}

}  // namespace rng
