#include <gtest/gtest.h>

#include "rng.h"

// The known answers that come with Random123 (kat_vectors: philox4x32, 10 rounds).
TEST(Rng, PhiloxGivesTheKnownAnswers) {
  const auto expect = [](rng::Block block, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    EXPECT_EQ(block.word[0], a);
    EXPECT_EQ(block.word[1], b);
    EXPECT_EQ(block.word[2], c);
    EXPECT_EQ(block.word[3], d);
  };
  expect(rng::philox(0, 0, 0, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
  expect(rng::philox(~uint64_t{0}, ~uint64_t{0}, 0xffffffff, 0xffffffff), 0x408f276d, 0x41c83b0e, 0xa20bc7c6,
         0x6d5451fd);
  expect(rng::philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3, 0x243f6a88), 0xd16cfe09, 0x94fdcceb,
         0x5001e420, 0x24126ea1);
}

TEST(Rng, NumbersStayInTheirRange) {
  EXPECT_EQ(rng::unit(0), 0.0);
  EXPECT_LT(rng::unit(~uint64_t{0}), 1.0);
  EXPECT_EQ(rng::below(0, 3), 0);
  EXPECT_EQ(rng::below(~uint64_t{0}, 3), 2);
  EXPECT_EQ(rng::below(uint64_t{1} << 63, 1000), 500);
}
