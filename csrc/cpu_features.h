#pragma once

// Run-time choice of the instruction set. A kernel is one always-inlined body, compiled once per instruction
// set: the arithmetic is the same and contraction is off (CMakeLists.txt), so every variant gives the same
// bits.

enum class InstructionSet { portable, avx2, avx512 };

#define MTRL_BODY static inline __attribute__((always_inline))

#if defined(__x86_64__)
#define MTRL_TARGET_AVX2 __attribute__((target("avx2")))
#define MTRL_TARGET_AVX512 __attribute__((target("avx2,avx512f,avx512dq,avx512vl,avx512bw")))

inline bool is_supported(InstructionSet set) {
  switch (set) {
    case InstructionSet::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    case InstructionSet::avx2:
      return __builtin_cpu_supports("avx2");
    default:
      return true;
  }
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
