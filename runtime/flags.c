#include "runtime/flags.h"

#include <stdio.h>

#include "core/call.h"

static const struct {
    unsigned bit;
    const char *name;
} names[] = {
#define X(NAME, bit, name) {bit, name},
    SF_CALL_FLAGS(X)
#undef X
};

char *sfi_flags_text(unsigned flags, char *buf, size_t size) {
    size_t used = 0;
    buf[0] = '\0';
    for (size_t i = 0; i < sizeof names / sizeof *names && used < size; i++) {
        if (flags & names[i].bit) {
            used += (size_t)snprintf(buf + used, size - used, "%s%s", used ? ", " : "", names[i].name);
        }
    }
    return buf;
}
