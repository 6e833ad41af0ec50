/* The flags of a call in words. */
#ifndef SF_RUNTIME_FLAGS_H
#define SF_RUNTIME_FLAGS_H

#include <stddef.h>

/* "ta, acc" with ", " between; "" for none. Returns `buf`. */
char *sfi_flags_text(unsigned flags, char *buf, size_t size);

#endif
