/* Memory: one hook under every allocation, and arenas for objects that live and die together. */
#ifndef SF_CORE_ARENA_H
#define SF_CORE_ARENA_H

#include <stddef.h>

#include "core/err.h"

/* All heap memory of core, topo, sim, planner goes through these. They return NULL when out of memory or when a test
 * asked for a failure; zero bytes gives a valid pointer. sf_calloc checks n*size for overflow. */
void *sf_malloc(size_t bytes);
void *sf_calloc(size_t n, size_t size);
void *sf_realloc(void *p, size_t n, size_t size); /* array growth, overflow-checked */
void sf_free(void *p);

/* Test hook: the n-th allocation from now on (1-based) fails, and every one after it; 0 switches the hook off. */
void sf_alloc_fail_after(size_t n);

struct sf_arena; /* grows by blocks; pointers stay valid until the arena is freed */

struct sf_arena *sf_arena_create(void); /* NULL when out of memory */
void sf_arena_free(struct sf_arena *a); /* NULL is legal */

/* Zeroed, 64-byte aligned; NULL when out of memory or n*size overflows. */
void *sf_arena_alloc(struct sf_arena *a, size_t n, size_t size);
char *sf_arena_strdup(struct sf_arena *a, const char *s);

/* The error every caller reports when memory runs out. */
int sf_fail_memory(struct sf_err *err, const char *what);

#endif
