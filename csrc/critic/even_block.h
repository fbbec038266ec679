#pragma once

#include <algorithm>
#include <cstdint>

// The size of blocks that cut n into as few parts of at most `most` as can be, all about the same: for
// threads to share, and so that none is a sliver. A multiple of `step`, as is `most`.
inline int64_t even_block(int64_t n, int64_t most, int64_t step) {
  const int64_t parts = std::max<int64_t>(1, (n + most - 1) / most), even = (n + parts - 1) / parts;
  return std::max(step, (even + step - 1) / step * step);
}
