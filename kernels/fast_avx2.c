/* The fast kernels for x86-64 with AVX2 and FMA. */
#if defined(__x86_64__)
#define SFI_ISA avx2
#define SFI_LANES 8
#define SFI_TARGET __attribute__((target("avx2,fma")))
#include "kernels/fast_table.h"
#endif
