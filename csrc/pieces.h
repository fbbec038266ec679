#pragma once

#include <cstdint>

// Pieces of memory of one size, one every `stride` bytes.
struct Pieces {
  const char* first = nullptr;
  int64_t stride = 0, bytes = 0;

  // Asks for piece i. Into the second-level cache: the first waits for far fewer lines at a time, and asking
  // it for whole rows takes about twice as long. Any address may be asked for, mapped or not. Inlined always:
  // g++ drops calls of a function that only prefetches.
  __attribute__((always_inline)) void fetch(int64_t i) const {
    const char* piece = first + i * stride;
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(piece + at, 0, 2);
  }
};
