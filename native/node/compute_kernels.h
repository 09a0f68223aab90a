/* The fixed work of the compute engine, one function for each kernel, and the table of them.
 *
 * A kernel does `granules` portions of work of one size, from where it was, and leaves a result that depends on all of
 * it, so that no compiler can leave any of it out. After `reset` the same work has the same result. */
#ifndef CVMPROBE_COMPUTE_KERNELS_H
#define CVMPROBE_COMPUTE_KERNELS_H

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/clock.h"
#include "node/compute_aes.h"
#include "node/cpuid_leaf.h"
#include "engine/worker.h"

#define COMPUTE_LINE_BYTES 64
#define COMPUTE_CUT_SHORT 1 /* told to stop before the work was done */
#define COMPUTE_FAULT_PAGES 512
#define COMPUTE_TRIAD_STRIDE 512 /* elements in a granule, of which the result has one */
#define COMPUTE_TRIAD_FACTOR 3.0
#define COMPUTE_AES_BLOCKS 64 /* in a granule */
#define COMPUTE_WAIT_NS UINT64_C(50000000) /* longest sleep without a look at `running` */

struct compute_area {
    char *memory; /* NULL: the kernel needs none */
    uint64_t bytes;
    uint64_t value; /* the result so far */
    uint64_t at;    /* where the kernel goes on */
    void *line;     /* the same, for the chase */
    struct worker *self;
    struct worker *partner; /* who answers; NULL: nobody */
    uint32_t turn __attribute__((aligned(64)));
    uint32_t asleep[2]; /* where each of two threads sleeps: always 0, only the address counts */
    struct aes aes;
};

struct compute_kernel {
    const char *name;
    const char *unit;   /* of the work, plural */
    const char *engine; /* what does it */
    uint32_t granule_units;
    uint32_t memory; /* whether it needs memory of a given size */
    uint32_t workers;
    void (*fill)(struct compute_area *); /* once; NULL: nothing to fill */
    void (*reset)(struct compute_area *);
    int (*work)(struct compute_area *, uint64_t granules); /* 0, COMPUTE_CUT_SHORT, or -errno of mmap */
    uint64_t (*result)(const struct compute_area *);
};

static inline void compute_reset(struct compute_area *a)
{
    a->value = a->at = 0;
}

static inline uint64_t compute_value(const struct compute_area *a)
{
    return a->value;
}

/* splitmix64 */
static inline uint64_t compute_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* integer: a chain of dependent multiplications, additions, shifts and exclusive ors. */
static inline int integer_work(struct compute_area *a, uint64_t steps)
{
    uint64_t x = a->value;
    while (steps--) {
        x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        x ^= x >> 29;
    }
    a->value = x;
    return 0;
}

/* chase: each line of the memory holds the address of the next, in one cycle through all of them (Sattolo). */
static inline void chase_fill(struct compute_area *a)
{
    uint64_t lines = a->bytes / COMPUTE_LINE_BYTES, random = 0;
    for (uint64_t i = 0; i < lines; i++)
        *(char **)(a->memory + i * COMPUTE_LINE_BYTES) = a->memory + i * COMPUTE_LINE_BYTES;
    for (uint64_t i = lines - 1; i > 0; i--) {
        char **one = (char **)(a->memory + i * COMPUTE_LINE_BYTES);
        char **other = (char **)(a->memory + compute_random(&random) % i * COMPUTE_LINE_BYTES);
        char *next = *one;
        *one = *other;
        *other = next;
    }
}

static inline void chase_reset(struct compute_area *a)
{
    a->line = a->memory;
}

static inline int chase_work(struct compute_area *a, uint64_t accesses)
{
    void **line = (void **)a->line;
    while (accesses--)
        line = (void **)*line;
    a->line = line;
    return 0;
}

static inline uint64_t chase_result(const struct compute_area *a)
{
    return (uint64_t)((char *)a->line - a->memory) / COMPUTE_LINE_BYTES;
}

/* triad: a = b + factor * c over three arrays, as in STREAM. 24 bytes are counted for an element. */
static inline uint64_t triad_elements(const struct compute_area *a)
{
    return a->bytes / (3 * sizeof(double)) / COMPUTE_TRIAD_STRIDE * COMPUTE_TRIAD_STRIDE;
}

static inline void triad_fill(struct compute_area *a)
{
    uint64_t n = triad_elements(a);
    double *to = (double *)a->memory, *b = to + n, *c = b + n;
    for (uint64_t i = 0; i < n; i++) {
        to[i] = 0;
        b[i] = (double)(i & 1023);
        c[i] = (double)(i * 7 & 1023);
    }
}

static inline void triad_reset(struct compute_area *a)
{
    uint64_t n = triad_elements(a);
    a->at = 0;
    for (uint64_t i = 0; i < n; i += COMPUTE_TRIAD_STRIDE)
        ((double *)a->memory)[i] = 0;
}

static inline int triad_work(struct compute_area *a, uint64_t granules)
{
    uint64_t n = triad_elements(a);
    double *to = (double *)a->memory;
    const double *b = to + n, *c = b + n;
    while (granules--) {
        double *restrict x = to + a->at;
        const double *restrict y = b + a->at, *restrict z = c + a->at;
        for (int i = 0; i < COMPUTE_TRIAD_STRIDE; i++)
            x[i] = y[i] + COMPUTE_TRIAD_FACTOR * z[i];
        a->at = a->at + COMPUTE_TRIAD_STRIDE < n ? a->at + COMPUTE_TRIAD_STRIDE : 0;
    }
    return 0;
}

static inline uint64_t triad_result(const struct compute_area *a)
{
    uint64_t n = triad_elements(a), sum = 0;
    for (uint64_t i = 0; i < n; i += COMPUTE_TRIAD_STRIDE)
        sum += (uint64_t)((const double *)a->memory)[i];
    return sum;
}

/* aes: blocks of a counter under one key. */
static inline void aes_fill(struct compute_area *a)
{
    aes_init(&a->aes);
}

static inline int aes_plain_work(struct compute_area *a, uint64_t granules)
{
    a->value ^= aes_plain(&a->aes, a->at, granules * COMPUTE_AES_BLOCKS);
    a->at += granules * COMPUTE_AES_BLOCKS;
    return 0;
}

#if defined(__x86_64__)
static inline int aes_ni_work(struct compute_area *a, uint64_t granules)
{
    a->value ^= aes_ni(&a->aes, a->at, granules * COMPUTE_AES_BLOCKS);
    a->at += granules * COMPUTE_AES_BLOCKS;
    return 0;
}
#endif

/* page_fault: map memory, touch each page of it for the first time, unmap it. Huge pages are refused. */
static inline int page_fault_work(struct compute_area *a, uint64_t granules)
{
    const size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE), bytes = COMPUTE_FAULT_PAGES * page_bytes;
    while (granules--) {
        volatile unsigned char *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED)
            return -errno;
        madvise((void *)pages, bytes, MADV_NOHUGEPAGE);
        for (size_t i = 0; i < bytes; i += page_bytes) {
            pages[i] = 1;
            a->value += pages[i];
        }
        munmap((void *)pages, bytes);
    }
    return 0;
}

/* syscall: enter the kernel for the least it can do. */
static inline int syscall_work(struct compute_area *a, uint64_t calls)
{
    while (calls--)
        a->value += (uint64_t)syscall(SYS_getppid);
    return 0;
}

/* wakeup: two threads wake each other in turn; an even turn is the initiator's. Who waits always goes to sleep, also
 * where the turn is its own already, and who wakes tries until it has found a sleeper: no turn changes hands between two
 * threads that are awake. Returns 0 where it was told to end. */
static inline int compute_await_turn(struct compute_area *a, struct worker *w, uint32_t parity)
{
    do {
        while (gate_sleep(&a->asleep[parity], 0, clock_now_ns() + COMPUTE_WAIT_NS) < 0)
            if (!worker_running(w))
                return 0;
    } while (__atomic_load_n(&a->turn, __ATOMIC_ACQUIRE) % 2 != parity);
    return 1;
}

static inline void compute_pass_turn(struct compute_area *a, struct worker *w)
{
    uint32_t turn = __atomic_add_fetch(&a->turn, 1, __ATOMIC_RELEASE);
    while (syscall(SYS_futex, &a->asleep[turn % 2], FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) < 1 && worker_running(w))
        sched_yield(); /* it may need this CPU to go to sleep */
}

static inline void wakeup_reset(struct compute_area *a)
{
    __atomic_store_n(&a->turn, 0, __ATOMIC_RELEASE);
}

static inline int wakeup_work(struct compute_area *a, uint64_t rounds)
{
    while (rounds--) {
        compute_pass_turn(a, a->self);
        if (!compute_await_turn(a, a->self, 0))
            return COMPUTE_CUT_SHORT;
    }
    return 0;
}

static inline uint64_t wakeup_result(const struct compute_area *a)
{
    return __atomic_load_n(&a->turn, __ATOMIC_ACQUIRE);
}

/* The other thread, until it is told to end. */
static inline void compute_answer(struct compute_area *a, struct worker *w)
{
    while (worker_running(w) && compute_await_turn(a, w, 1))
        compute_pass_turn(a, w);
}

/* cpuid: an instruction that no VM answers by itself. It leaves for the hypervisor, or for what stands in for it in a
 * confidential VM: the kernel's own handler and the firmware's table (SEV-SNP), the TDX module, a paravisor. Without a
 * hypervisor nothing is left, so there it is another engine. */
static inline int cpuid_work(struct compute_area *a, uint64_t exits)
{
    uint32_t out[4];
    while (exits--) {
        cpuid_leaf(0, 0, out);
        a->value += (uint64_t)out[0] + out[1] + out[2] + out[3];
    }
    return 0;
}

static const struct compute_kernel COMPUTE_KERNELS[] = {
    {"integer", "steps", "integer", 1, 0, 1, NULL, compute_reset, integer_work, compute_value},
    {"chase", "accesses", "chase", 1, 1, 1, chase_fill, chase_reset, chase_work, chase_result},
    {"triad", "bytes", "triad", 24 * COMPUTE_TRIAD_STRIDE, 1, 1, triad_fill, triad_reset, triad_work, triad_result},
#if defined(__x86_64__)
    {"aes", "bytes", "aes-ni", AES_BLOCK_BYTES * COMPUTE_AES_BLOCKS, 0, 1, aes_fill, compute_reset, aes_ni_work,
     compute_value},
#endif
    {"aes", "bytes", "aes-plain", AES_BLOCK_BYTES * COMPUTE_AES_BLOCKS, 0, 1, aes_fill, compute_reset, aes_plain_work,
     compute_value},
    {"page_fault", "faults", "page_fault", COMPUTE_FAULT_PAGES, 0, 1, NULL, compute_reset, page_fault_work,
     compute_value},
    {"syscall", "calls", "getppid", 1, 0, 1, NULL, compute_reset, syscall_work, compute_value},
    {"wakeup", "wake-ups", "futex", 2, 0, 2, NULL, wakeup_reset, wakeup_work, wakeup_result},
#if defined(__x86_64__)
    {"cpuid", "exits", "cpuid", 1, 0, 1, NULL, compute_reset, cpuid_work, compute_value},
    {"cpuid", "instructions", "cpuid-bare-metal", 1, 0, 1, NULL, compute_reset, cpuid_work, compute_value},
#endif
};

static inline int compute_can(const char *engine)
{
    if (!strcmp(engine, "aes-ni"))
        return aes_ni_is_there();
    if (!strcmp(engine, "cpuid"))
        return cpuid_of_a_vm();
    return strcmp(engine, "cpuid-bare-metal") || !cpuid_of_a_vm();
}

/* The kernel of that name done by that engine ("": the first that can); NULL: there is none here. */
static inline const struct compute_kernel *compute_find(const char *name, const char *engine)
{
    for (size_t i = 0; i < sizeof COMPUTE_KERNELS / sizeof *COMPUTE_KERNELS; i++) {
        const struct compute_kernel *k = &COMPUTE_KERNELS[i];
        if (compute_can(k->engine) && !strcmp(k->name, name) && (!*engine || !strcmp(k->engine, engine)))
            return k;
    }
    return NULL;
}

#endif
