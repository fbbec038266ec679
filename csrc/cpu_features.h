#pragma once

// Run-time choice of the instruction set. A kernel is one always-inlined body, compiled once per instruction
// set: the arithmetic is the same and contraction is off (CMakeLists.txt), so every variant gives the same
// bits.

#if defined(__x86_64__)
#include <cpuid.h>
#endif

enum class InstructionSet { portable, avx2, avx512 };

#define MTRL_BODY static inline __attribute__((always_inline))

#if defined(__x86_64__)
#define MTRL_TARGET_AVX2 __attribute__((target("avx2")))
#define MTRL_TARGET_AVX512 __attribute__((target("avx2,avx512f,avx512dq,avx512vl,avx512bw")))

struct CpuFeatures {
  bool avx2, fma, avx512;  // avx512: F, DQ, VL and BW
};

// What this CPU has and the system saves. Not by __builtin_cpu_supports: that of zig denies everything.
inline CpuFeatures read_cpu_features() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return {};
  unsigned saved = 0, high = 0;
  __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  const bool fma = c & bit_FMA;
  if ((saved & 0x06) != 0x06 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return {};
  const unsigned wide = bit_AVX512F | bit_AVX512DQ | bit_AVX512VL | bit_AVX512BW;
  return {(b & bit_AVX2) != 0, fma, (saved & 0xe6) == 0xe6 && (b & wide) == wide};
}

inline const CpuFeatures& cpu_features() {
  static const CpuFeatures features = read_cpu_features();
  return features;
}

inline bool is_supported(InstructionSet set) {
  if (set == InstructionSet::avx512) return cpu_features().avx512;
  return set == InstructionSet::avx2 ? cpu_features().avx2 : true;
}

// Defines `name(InstructionSet, parameters)` from `name_body(parameters)`; both lists come in parentheses.
#define MTRL_DISPATCH(name, parameters, arguments)                                   \
  static void name##_portable parameters { name##_body arguments; }                  \
  MTRL_TARGET_AVX2 static void name##_avx2 parameters { name##_body arguments; }     \
  MTRL_TARGET_AVX512 static void name##_avx512 parameters { name##_body arguments; } \
  static inline auto name##_for(InstructionSet set) {                                \
    if (set == InstructionSet::avx512) return name##_avx512;                         \
    return set == InstructionSet::avx2 ? name##_avx2 : name##_portable;              \
  }
#else
inline bool is_supported(InstructionSet set) { return set == InstructionSet::portable; }

#define MTRL_DISPATCH(name, parameters, arguments)                  \
  static void name##_portable parameters { name##_body arguments; } \
  static inline auto name##_for(InstructionSet) { return name##_portable; }
#endif

inline InstructionSet best_instruction_set() {
  if (is_supported(InstructionSet::avx512)) return InstructionSet::avx512;
  return is_supported(InstructionSet::avx2) ? InstructionSet::avx2 : InstructionSet::portable;
}

inline const char* name_of(InstructionSet set) {
  if (set == InstructionSet::avx512) return "avx512";
  return set == InstructionSet::avx2 ? "avx2" : "portable";
}
