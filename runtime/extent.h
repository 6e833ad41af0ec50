/* How many bytes each operand of a call touches, so that no kernel can be sent outside the range it was given. */
#ifndef SF_RUNTIME_EXTENT_H
#define SF_RUNTIME_EXTENT_H

#include "core/call.h"
#include "core/err.h"

/* Refuses dims that no kernel can work with. Saturates at UINT64_MAX where a product overflows. */
int sfi_call_extents(const struct sf_call *call, uint64_t bytes[SF_CALL_OPERANDS], struct sf_err *err);

#endif
