// cuBLASLt's products over tests/csrc/cublaslt_on_host.cpp, a strict library in the place of NVIDIA's,
// against loops.
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/cublaslt.h"

namespace {

struct Layer {
  int64_t critics, rows, width;
  std::vector<float> x, kernel, bias, out;
  std::vector<uint8_t> mask, workspace;

  Layer(int64_t e, int64_t b, int64_t w) : critics(e), rows(b), width(w) {
    auto normal = [seed = uint64_t{1}](int64_t n) mutable {
      std::vector<float> numbers(static_cast<size_t>(n));
      for (float& number : numbers) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        number = static_cast<float>(static_cast<double>(seed >> 11) * 0x1p-53 - 0.5);
      }
      return numbers;
    };
    x = normal(e * b * w), kernel = normal(e * w * w), bias = normal(e * w);
    out.assign(x.size(), 7.0f);
    mask.assign(static_cast<size_t>(lt_mask_bytes(e, b, w)), 0xaa);
  }

  void run(CublasLt& lt, LtProduct product) {
    const LtPlan plan = lt.choose(product, critics, rows, width, false);
    workspace.resize(plan.workspace);
    lt.run(plan, {x.data(), kernel.data(), bias.data(), mask.data(), out.data(), workspace.data()}, nullptr);
  }

  // What goes into number j of row b of critic e, forward or backward.
  float sum(int64_t e, int64_t b, int64_t j, bool backward) const {
    double total = 0;
    for (int64_t i = 0; i < width; ++i)
      total +=
          double{x[at(e, b, i)]} *
          double{kernel[static_cast<size_t>(e * width * width + (backward ? j * width + i : i * width + j))]};
    return static_cast<float>(total);
  }
  size_t at(int64_t e, int64_t b, int64_t j) const { return static_cast<size_t>((e * rows + b) * width + j); }
};

TEST(CublasLt, LayersAreThoseOfPlainLoops) {
  CublasLt lt({CUBLASLT_ON_HOST});
  for (const int64_t width : {4, 20, 132})
    for (const int64_t critics : {1, 3}) {
      Layer layer(critics, 5, width);
      for (const LtProduct product : {LtProduct::kForward, LtProduct::kForwardMask}) {
        layer.out.assign(layer.out.size(), 7.0f);
        layer.run(lt, product);
        for (int64_t e = 0; e < critics; ++e)
          for (int64_t b = 0; b < 5; ++b)
            for (int64_t j = 0; j < width; ++j) {
              const float y = layer.sum(e, b, j, false) + layer.bias[static_cast<size_t>(e * width + j)];
              EXPECT_NEAR(layer.out[layer.at(e, b, j)], y < 0.0f ? 0.0f : y, 1e-5f);
            }
      }
      const std::vector<float> y = layer.out;
      layer.run(lt, LtProduct::kBackward);
      for (int64_t e = 0; e < critics; ++e)
        for (int64_t j = 0; j < width; ++j) {
          float sums = 0;
          for (int64_t b = 0; b < 5; ++b) {
            const float dx = y[layer.at(e, b, j)] > 0.0f ? layer.sum(e, b, j, true) : 0.0f;
            EXPECT_NEAR(layer.out[layer.at(e, b, j)], dx, 1e-5f);
            sums += dx;
          }
          EXPECT_NEAR(layer.bias[static_cast<size_t>(e * width + j)], sums, 1e-5f);
        }
    }
}

TEST(CublasLt, WhatDoesNotFitIsRefused) {
  CublasLt lt({"/nowhere/libcublasLt.so.0", CUBLASLT_ON_HOST});
  EXPECT_EQ(lt.version(), 123456u);
  EXPECT_THROW(lt.choose(LtProduct::kForward, 1, 1, 6, false), std::invalid_argument);
  Layer layer(2, 3, 8);
  const LtPlan plan = lt.choose(LtProduct::kForward, 2, 3, 8, false);
  std::vector<uint8_t> space(plan.workspace);
  const LtTensors good{layer.x.data(), layer.kernel.data(), layer.bias.data(),
                       nullptr,        layer.out.data(),    space.data()};
  lt.run(plan, good, nullptr);
  LtTensors wrong = good;
  wrong.kernel += 1;
  EXPECT_THROW(lt.run(plan, wrong, nullptr), CudaError);
  wrong = good;
  wrong.bias += 1;
  EXPECT_THROW(lt.run(plan, wrong, nullptr), CudaError);
  LtPlan other = plan;
  other.rows = 2;
  EXPECT_THROW(lt.run(other, good, nullptr), CudaError);
}

TEST(CublasLt, ALibraryThatIsNotThereIsNamed) {
  try {
    CublasLt lt({"/nowhere/libcublasLt.so.0"});
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("/nowhere/libcublasLt.so.0"), std::string::npos);
  }
}

}  // namespace
