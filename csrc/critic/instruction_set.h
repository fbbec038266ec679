#pragma once

// MTRL_DISPATCH(name, parameters, arguments) defines `void name parameters` from an always-inline
// `name##_body`, compiled for AVX-512, for AVX2 and for the build's baseline; the best one that the machine
// has runs. Contraction is off (CMakeLists.txt), so elementwise bodies give the same bits on all of them.
#define MTRL_BODY static inline __attribute__((always_inline)) void

#if defined(__x86_64__)
#define MTRL_DISPATCH(name, parameters, arguments)                                                     \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) static void name##_avx512 parameters { \
    name##_body arguments;                                                                             \
  }                                                                                                    \
  __attribute__((target("avx2"))) static void name##_avx2 parameters { name##_body arguments; }        \
  static void name##_baseline parameters { name##_body arguments; }                                    \
  void name parameters {                                                                               \
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&                     \
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {                    \
      name##_avx512 arguments;                                                                         \
    } else if (__builtin_cpu_supports("avx2")) {                                                       \
      name##_avx2 arguments;                                                                           \
    } else {                                                                                           \
      name##_baseline arguments;                                                                       \
    }                                                                                                  \
  }
#else
#define MTRL_DISPATCH(name, parameters, arguments) \
  void name parameters { name##_body arguments; }
#endif
