/* The fast kernels for any CPU: 128-bit vectors, as the compiler's default target has them. */
#define SFI_ISA base
#define SFI_LANES 4
#define SFI_TARGET
#include "kernels/fast_table.h"
