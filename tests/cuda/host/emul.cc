#include "tests/cuda/host/emul.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <vector>

enum state { RUNNING, AT_BLOCK, AT_WARP, LEFT };
enum { STACK = 128 * 1024, THREADS_MAX = 1024, WARP = 32, SHARED_MAX = 227 * 1024 };

struct fiber {
    jmp_buf context;
    enum state state;
    bool started;
    uint3 thread;
    unsigned linear;
};

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

static struct fiber fibers[THREADS_MAX];
static char *stacks;
static struct fiber *current;
static unsigned threads_n;
static jmp_buf scheduler;
static ucontext_t entry, home;
static const std::function<void()> *body;
static uint32_t slots[2][THREADS_MAX]; /* what lanes offer; two turns, since a fast lane may be one ahead */
static uint8_t turn[THREADS_MAX];
alignas(256) static char dynamic_shared[SHARED_MAX + 256];
static size_t dynamic_bytes;
static uint64_t random_state;

[[noreturn]] static void fail(const char *why) {
    fprintf(stderr, "emulation: %s (block %u,%u,%u thread %u,%u)\n", why, blockIdx.x, blockIdx.y, blockIdx.z,
            threadIdx.x, threadIdx.y);
    abort();
}

static uint64_t next_random(void) {
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void sf_emul_seed(uint64_t seed) {
    random_state = seed;
}

const void *sfi_emul_aligned(const void *p, size_t bytes) {
    if ((uintptr_t)p % bytes != 0) {
        fail("misaligned word");
    }
    return p;
}

void *sfi_emul_dynamic_shared(void) {
    return dynamic_shared;
}

/* ---- fibers ------------------------------------------------------------------------------------------------------ */

static void fiber_main(void) {
    (*body)();
    current->state = LEFT;
    _longjmp(scheduler, 1);
}

static void wait_as(enum state state) {
    struct fiber *me = current;
    me->state = state;
    if (_setjmp(me->context) == 0) {
        _longjmp(scheduler, 1);
    }
}

void sfi_emul_wait_block(void) {
    wait_as(AT_BLOCK);
}

void sfi_emul_wait_warp(void) {
    wait_as(AT_WARP);
}

/* Lanes count in the order of x, then y; shuffles are used in blocks whose x is a multiple of the warp. */
uint32_t sfi_emul_exchange(uint32_t value, unsigned from_x) {
    unsigned me = current->linear, from = me - threadIdx.x + from_x, side = turn[me];
    if (from / WARP != me / WARP) {
        fail("shuffle leaves its warp");
    }
    slots[side][me] = value;
    turn[me] = (uint8_t)(1 - side);
    sfi_emul_wait_warp();
    return slots[side][from];
}

static void resume(struct fiber *f) {
    current = f;
    threadIdx = f->thread;
    if (_setjmp(scheduler) != 0) {
        return;
    }
    if (f->started) {
        _longjmp(f->context, 1);
    }
    f->started = true;
    getcontext(&entry);
    entry.uc_stack.ss_sp = stacks + (size_t)f->linear * STACK;
    entry.uc_stack.ss_size = STACK;
    entry.uc_link = &home;
    makecontext(&entry, fiber_main, 0);
    setcontext(&entry);
}

/* ---- a block ----------------------------------------------------------------------------------------------------- */

static void release(unsigned first, unsigned end) {
    for (unsigned i = first; i < end; i++) {
        fibers[i].state = RUNNING;
    }
}

static unsigned in_state(unsigned first, unsigned end, enum state state) {
    unsigned n = 0;
    for (unsigned i = first; i < end; i++) {
        n += fibers[i].state == state;
    }
    return n;
}

static unsigned warp_end(unsigned first) {
    return first + WARP < threads_n ? first + WARP : threads_n;
}

/* Every lane that can run does, until it waits or leaves. Lanes that all wait for each other may go on. */
static void run_warp(unsigned first) {
    unsigned end = warp_end(first), n = end - first, start = (unsigned)(next_random() % n);
    for (unsigned i = 0; i < n; i++) {
        struct fiber *f = &fibers[first + (start + i) % n];
        if (f->state == RUNNING) {
            resume(f);
        }
    }
    if (in_state(first, end, AT_WARP) == WARP) {
        release(first, end);
    }
}

/* A warp that somebody in it can run in, from a random one on; threads_n when there is none. */
static unsigned pick_warp(void) {
    unsigned warps = (threads_n + WARP - 1) / WARP, start = (unsigned)(next_random() % warps);
    for (unsigned i = 0; i < warps; i++) {
        unsigned first = (start + i) % warps * WARP;
        if (in_state(first, warp_end(first), RUNNING) > 0) {
            return first;
        }
    }
    return threads_n;
}

/* One warp after the other runs ahead as far as it gets, mostly: the unkindest order for whoever forgot a barrier. */
static void run_threads(void) {
    for (unsigned warp = pick_warp(); in_state(0, threads_n, LEFT) < threads_n;) {
        if (warp == threads_n) {
            if (in_state(0, threads_n, AT_BLOCK) != threads_n) {
                fail("threads wait for others that left, or at different barriers");
            }
            release(0, threads_n);
        } else {
            run_warp(warp);
        }
        bool stay = warp < threads_n && in_state(warp, warp_end(warp), RUNNING) > 0 && next_random() % 16 != 0;
        warp = stay ? warp : pick_warp();
    }
}

static void run_block(void) {
    memset(dynamic_shared, 0xa5, dynamic_bytes + 256);
    for (unsigned i = 0; i < threads_n; i++) {
        unsigned x = i % blockDim.x, y = i / blockDim.x % blockDim.y, z = i / blockDim.x / blockDim.y;
        fibers[i].state = RUNNING;
        fibers[i].started = false;
        fibers[i].thread = uint3{x, y, z};
        fibers[i].linear = i;
        turn[i] = 0;
    }
    run_threads();
    for (size_t i = dynamic_bytes; i < dynamic_bytes + 256; i++) {
        if (dynamic_shared[i] != (char)0xa5) {
            fail("write behind the dynamic shared memory");
        }
    }
}

void sfi_emul_run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &kernel) {
    threads_n = block.x * block.y * block.z;
    if (threads_n == 0 || threads_n > THREADS_MAX || shared_bytes > SHARED_MAX || grid.x == 0 || grid.y == 0 ||
        grid.y > 65535 || grid.z == 0 || grid.z > 65535) {
        fail("no device accepts this launch");
    }
    if (stacks == NULL) {
        stacks = (char *)malloc((size_t)THREADS_MAX * STACK);
        if (stacks == NULL) {
            fail("out of memory");
        }
    }
    gridDim = grid;
    blockDim = block;
    dynamic_bytes = shared_bytes;
    body = &kernel;
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z, first = next_random() % blocks;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t b = (first + i) % blocks;
        blockIdx = uint3{(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y)};
        run_block();
    }
}
