/* One thread of an engine: named, deaf to signals, placed, started together with the others, joined.
 *
 *     worker_spawn ── prepare ── ready ─┐ gate_open ── loop ── ended ── worker_join
 *                                       └ gate_cancel ──────── ended ── worker_join
 */
#ifndef CVMPROBE_WORKER_H
#define CVMPROBE_WORKER_H

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/clock.h"
#include "engine/counters.h"
#include "engine/placement.h"

#define WORKER_STACK_BYTES (512 * 1024)
#define WORKER_NAME_BYTES 16

/* What the workers of one engine share; touched only before they start and after they end. */
struct gate {
    uint32_t ready; /* workers that are prepared, or failed to */
    uint32_t go;    /* 0 wait, 1 run, 2 end without running */
    uint32_t ended;
} __attribute__((aligned(64)));

struct worker;
typedef void (*worker_loop)(struct worker *);
typedef int (*worker_prepare)(struct worker *); /* in the worker's own thread; returns 0 or -errno */

/* First member of every engine's own worker struct. */
struct worker {
    uint32_t running; /* atomic; the loop ends soon after it falls */
    uint32_t index;
    uint64_t start_ns;    /* common to all workers */
    uint64_t deadline_ns; /* UINT64_MAX: none */
    uint64_t cpu_ns;       /* COUNTER_UNKNOWN until the thread has ended */
    uint64_t run_delay_ns; /* the same */
    const char *error_call; /* a literal; NULL: no error */
    int error_errno;
    int32_t tid;
    int schedstat; /* fd, -1: the kernel does not tell */
    int spawned;
    pthread_t thread;
    worker_loop loop;
    worker_prepare prepare; /* NULL: nothing to prepare */
    const struct placement *placement;
    struct gate *gate;
    char name[WORKER_NAME_BYTES];
} __attribute__((aligned(64)));

static inline int worker_running(const struct worker *w)
{
    return (int)__atomic_load_n(&w->running, __ATOMIC_RELAXED);
}

/* Keep the first failure: `call` is a string literal, `error` a positive errno. The loop should then return. */
static inline void worker_fail(struct worker *w, const char *call, int error)
{
    if (w->error_call)
        return;
    w->error_errno = error;
    __atomic_store_n(&w->error_call, call, __ATOMIC_RELEASE);
}

/* The failure of a worker: a literal, or NULL. */
static inline const char *worker_error_call(const struct worker *w)
{
    return __atomic_load_n(&w->error_call, __ATOMIC_ACQUIRE);
}

/* Ask a worker's loop to end; any thread may. */
static inline void worker_halt(struct worker *w)
{
    __atomic_store_n(&w->running, 0, __ATOMIC_RELAXED);
}

static inline void gate_wake(uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* Sleep while *word holds `seen`, at most until at_ns. Returns 0, -ETIMEDOUT, or -EINTR. */
static inline int gate_sleep(const uint32_t *word, uint32_t seen, uint64_t at_ns)
{
    struct timespec t = clock_timespec(at_ns);
    long r = syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, seen, at_ns == UINT64_MAX ? NULL : &t, NULL,
                     FUTEX_BITSET_MATCH_ANY);
    return r < 0 && errno != EAGAIN ? -errno : 0;
}

/* Wait until *word reaches `count`, at most until at_ns. Returns 0, -ETIMEDOUT, or -EINTR. */
static inline int gate_await(const uint32_t *word, uint32_t count, uint64_t at_ns)
{
    for (;;) {
        uint32_t seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);
        if (seen >= count)
            return 0;
        int r = gate_sleep(word, seen, at_ns);
        if (r < 0)
            return r;
    }
}

static inline void gate_set(struct gate *g, uint32_t go)
{
    __atomic_store_n(&g->go, go, __ATOMIC_RELEASE);
    gate_wake(&g->go);
}

static inline uint64_t worker_read_run_delay(int schedstat)
{
    char text[96];
    ssize_t n = schedstat < 0 ? -1 : pread(schedstat, text, sizeof text - 1, 0);
    if (n <= 0)
        return COUNTER_UNKNOWN;
    text[n] = 0;
    char *second = strchr(text, ' ');
    return second ? strtoull(second, NULL, 10) : COUNTER_UNKNOWN;
}

static inline void *worker_main(void *argument)
{
    struct worker *w = (struct worker *)argument;
    struct gate *g = w->gate;
    w->tid = (int32_t)syscall(SYS_gettid);
    prctl(PR_SET_TIMERSLACK, 1); /* wake when asked, not up to 50 us later */
    pthread_setname_np(pthread_self(), w->name);
    w->schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    int r = placement_apply(w->placement, w->index);
    if (r < 0)
        worker_fail(w, "sched_setaffinity", -r);
    else if (w->prepare && (r = w->prepare(w)) < 0)
        worker_fail(w, "prepare", -r);
    __atomic_add_fetch(&g->ready, 1, __ATOMIC_RELEASE);
    gate_wake(&g->ready);
    while (!__atomic_load_n(&g->go, __ATOMIC_ACQUIRE))
        gate_await(&g->go, 1, UINT64_MAX);
    if (__atomic_load_n(&g->go, __ATOMIC_ACQUIRE) == 1 && !w->error_call)
        w->loop(w);
    counter_set(&w->run_delay_ns, worker_read_run_delay(w->schedstat));
    __atomic_store_n(&w->cpu_ns, clock_of_ns(CLOCK_THREAD_CPUTIME_ID), __ATOMIC_RELEASE);
    __atomic_add_fetch(&g->ended, 1, __ATOMIC_RELEASE);
    gate_wake(&g->ended);
    return NULL;
}

/* Start the thread of a worker whose fields are filled in. Returns 0 or -errno. */
static inline int worker_spawn(struct worker *w)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    w->cpu_ns = w->run_delay_ns = COUNTER_UNKNOWN;
    w->schedstat = -1;
    w->running = 1;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, WORKER_STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&w->thread, &attributes, worker_main, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    w->spawned = r == 0;
    return -r;
}

static inline void worker_join(struct worker *w)
{
    if (!w->spawned)
        return;
    pthread_join(w->thread, NULL);
    w->spawned = 0;
    int schedstat = __atomic_exchange_n(&w->schedstat, -1, __ATOMIC_RELAXED); /* a snapshot may be under way */
    if (schedstat >= 0)
        close(schedstat);
}

/* CPU time of the worker so far, ns. */
static inline uint64_t worker_cpu_ns(const struct worker *w)
{
    struct timespec t;
    clockid_t clock = (clockid_t)(~(uint32_t)w->tid << 3 | 6); /* the kernel's id of one thread's CPU clock */
    uint64_t final = __atomic_load_n(&w->cpu_ns, __ATOMIC_ACQUIRE);
    if (final == COUNTER_UNKNOWN && clock_gettime(clock, &t) == 0) {
        uint64_t now = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
        final = __atomic_load_n(&w->cpu_ns, __ATOMIC_ACQUIRE);
        return final == COUNTER_UNKNOWN ? now : final;
    }
    return __atomic_load_n(&w->cpu_ns, __ATOMIC_ACQUIRE);
}

/* How long the worker was ready and had no CPU so far, ns; COUNTER_UNKNOWN where the kernel does not tell.
 * What it told last counts, for the file may be closed, and its number another's, by the time it is read. */
static inline uint64_t worker_run_delay_ns(const struct worker *w)
{
    uint64_t now = worker_read_run_delay(__atomic_load_n(&w->schedstat, __ATOMIC_RELAXED));
    uint64_t final = counter_read(&w->run_delay_ns);
    return final == COUNTER_UNKNOWN ? now : final;
}

#endif
