/* What the binary and the text form of a program share. */
#ifndef SF_CORE_PROG_FILE_H
#define SF_CORE_PROG_FILE_H

#include "core/prog.h"

#define SFI_MAX_CLASS_ITEMS (SF_MAX_CLASS_OPS * 8u) /* args and deps of a class, see prog_build.c */

/* Refuse what the files cannot hold without loss: unknown flags, unnamed dims that are not 0, numbers that are not
 * finite, reserved fields that are used, args or deps not stored in op order. Safe on any program whose arrays are as
 * long as their counts say. */
int sfi_prog_storable(const struct sf_prog *prog, struct sf_err *err);

/* What every reader asks of a program before handing it out: sfi_prog_storable and sf_prog_check. */
int sfi_prog_accept(const struct sf_prog *prog, struct sf_err *err);

/* Returns `rc`; a message that does not say which file is at fault now does. */
int sfi_name_file(struct sf_err *err, int rc, const char *name);

/* An empty program in an arena of its own; NULL when out of memory. */
struct sf_prog *sfi_prog_create(void);

#endif
