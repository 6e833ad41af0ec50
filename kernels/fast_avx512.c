/* The fast kernels for x86-64 with AVX-512 (the Skylake server subset). */
#if defined(__x86_64__)
#define SFI_ISA avx512
#define SFI_LANES 16
#define SFI_TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")))
#include "kernels/fast_table.h"
#endif
