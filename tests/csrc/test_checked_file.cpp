#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "replay/checked_file.h"

TEST(CheckedFile, Crc32IsZlibs) {
  EXPECT_EQ(crc32(0, "123456789", 9), 0xCBF43926u);
  EXPECT_EQ(crc32(crc32(0, "1234", 4), "56789", 5), 0xCBF43926u);
}

TEST(CheckedFile, AFailedWriteLeavesTheOldFile) {
  const std::string path = testing::TempDir() + "replay_checkpoint";
  EXPECT_EQ(write_file(path, [](const auto& sink) { sink("old", 3); }), crc32(0, "old", 3));
  EXPECT_THROW(write_file(path, [](const auto& sink) { sink("ne", 2), throw std::runtime_error("full"); }),
               std::runtime_error);
  const MappedFile file(path);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file.data()), file.size()), "old");
}
