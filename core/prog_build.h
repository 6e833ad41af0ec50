/* Building a program class by class. The builder grows arrays on the heap and seals them into the program's arena.
 * Errors stick: after the first failure every call is a no-op and sf_build_finish reports it. */
#ifndef SF_CORE_PROG_BUILD_H
#define SF_CORE_PROG_BUILD_H

#include "core/prog.h"

struct sf_build; /* one program under construction */

struct sf_build *sf_build_create(void);            /* NULL when out of memory */
void sf_build_free(struct sf_build *b);            /* NULL is legal; also frees a program not yet handed out */
struct sf_prog *sf_build_prog(struct sf_build *b); /* to set title, job, placement, memory, class_axes */

uint32_t sf_build_axis(struct sf_build *b, const char *name, uint32_t size);
uint32_t sf_build_comm(struct sf_build *b, const char *name, uint32_t axes);
uint32_t sf_build_stream(struct sf_build *b, const char *name);

/* Recipes are shared: one equal to an earlier one returns the earlier index. */
void sf_build_recipe_begin(struct sf_build *b, const char *name, uint32_t formals_n);
void sf_build_call(struct sf_build *b, const struct sf_call *call);
uint32_t sf_build_recipe_end(struct sf_build *b);

void sf_build_class_begin(struct sf_build *b, const char *name, uint32_t stage);
/* Persistent buffers live for the whole program. Others live from the first to the last op whose args name them;
 * sf_build_class_end finds those lifetimes and places everything: persistent first, then first fit by happens-before
 * (two buffers share memory only if every use of one is ordered before every use of the other). */
uint32_t sf_build_buffer(struct sf_build *b, const char *name, enum sf_buf_kind kind, uint64_t bytes, bool persistent);
void sf_build_tensor(struct sf_build *b, const struct sf_tensor *t);
/* Append an op; `op` needs kind, stream and what its kind uses. arg_first and dep_first are set here. Duplicate deps
 * and deps on the same stream are dropped. Returns the op's index. */
uint32_t sf_build_op(struct sf_build *b, const struct sf_op *op, const struct sf_arg *args, uint32_t args_n,
                     const uint32_t *deps, uint32_t deps_n);
uint32_t sf_build_class_end(struct sf_build *b);

/* class_of has one entry per combination of the class axes. Runs sf_prog_check. On success *out is the caller's. */
int sf_build_finish(struct sf_build *b, const uint32_t *class_of, uint32_t class_of_n, struct sf_prog **out,
                    struct sf_err *err);

#endif
