#pragma once

#include <cstdint>

// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as
// easy as 1, 2, 3"). A number is a pure function of (seed, draw, task, lane): it depends on no thread, no
// order and no state.
namespace rng {

struct Block {
  uint32_t word[4];
};

// The ten rounds, for counters whose words stand in the low halves of 64 bits each: Word is uint64_t, or a
// vector of them for as many counters side by side.
template <class Word>
inline __attribute__((always_inline)) void philox_rounds(uint64_t seed, Word& c0, Word& c1, Word& c2,
                                                         Word& c3) {
  constexpr uint64_t kLow = 0xFFFFFFFF;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const Word p0 = c0 * uint64_t{0xD2511F53};
    const Word p1 = c2 * uint64_t{0xCD9E8D57};
    c0 = (p1 >> 32) ^ c1 ^ uint64_t{k0};
    c1 = p1 & kLow;
    c2 = (p0 >> 32) ^ c3 ^ uint64_t{k1};
    c3 = p0 & kLow;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

inline Block philox(uint64_t seed, uint64_t draw, uint32_t task, uint32_t lane) {
  uint64_t c0 = lane, c1 = task, c2 = static_cast<uint32_t>(draw), c3 = draw >> 32;
  philox_rounds(seed, c0, c1, c2, c3);
  return {{static_cast<uint32_t>(c0), static_cast<uint32_t>(c1), static_cast<uint32_t>(c2),
           static_cast<uint32_t>(c3)}};
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
