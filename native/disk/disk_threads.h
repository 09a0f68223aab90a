/* A pool of threads that each make one call at a time: the backend where no asynchronous interface is allowed.
 *
 *     worker   put: calls[slot]   submit: due[slot] = 1, wake        reap: take from done[], else sleep on `ended`
 *     thread                       sleep on due[slot] ── call ── done[ended++] = slot, result; wake
 */
#ifndef CVMPROBE_DISK_THREADS_H
#define CVMPROBE_DISK_THREADS_H

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "engine/clock.h"
#include "disk/disk_call.h"

#define DISK_POOL_STACK_BYTES (64 * 1024)
#define DISK_POOL_DEPTH 128

enum { DISK_POOL_IDLE, DISK_POOL_DUE, DISK_POOL_END };

struct disk_pool;

/* One thread, and the slot it serves. */
struct disk_pool_thread {
    struct disk_pool *pool;
    pthread_t thread;
    struct disk_call call;
    uint32_t slot;
    uint32_t state; /* futex */
} __attribute__((aligned(64)));

struct disk_pool {
    struct disk_queue queue;
    struct disk_target target;
    struct disk_pool_thread *threads;
    uint64_t *done; /* slot + 1 << 32 | result; 0: not there yet */
    uint32_t spawned;
    uint32_t put[DISK_BATCH];
    uint32_t put_count;
    uint32_t ended __attribute__((aligned(64))); /* futex; calls that ended so far */
    uint32_t reaped;
};

static inline void disk_pool_wake(uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static inline void disk_pool_sleep(uint32_t *word, uint32_t seen, const struct timespec *timeout)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, timeout, NULL, 0);
}

static void *disk_pool_main(void *argument)
{
    struct disk_pool_thread *self = argument;
    struct disk_pool *pool = self->pool;
    uint64_t cpu_ns = 0;
    for (;;) {
        uint32_t state = __atomic_load_n(&self->state, __ATOMIC_ACQUIRE);
        if (state == DISK_POOL_END)
            return NULL;
        if (state == DISK_POOL_IDLE) {
            disk_pool_sleep(&self->state, DISK_POOL_IDLE, NULL);
            continue;
        }
        int32_t result = disk_call_make(&pool->target, self->slot, &self->call);
        uint64_t now_cpu_ns = clock_of_ns(CLOCK_THREAD_CPUTIME_ID);
        __atomic_add_fetch(&pool->queue.pool_cpu_ns, now_cpu_ns - cpu_ns, __ATOMIC_RELAXED);
        cpu_ns = now_cpu_ns;
        uint32_t due = DISK_POOL_DUE; /* an end that came meanwhile stays */
        __atomic_compare_exchange_n(&self->state, &due, DISK_POOL_IDLE, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
        uint32_t at = __atomic_fetch_add(&pool->ended, 1, __ATOMIC_ACQ_REL);
        __atomic_store_n(&pool->done[at % pool->target.depth], (uint64_t)(self->slot + 1) << 32 | (uint32_t)result,
                         __ATOMIC_RELEASE);
        disk_pool_wake(&pool->ended);
    }
}

/* Waits for calls that have not returned yet: no thread can be taken out of one. */
static void disk_pool_close(struct disk_queue *queue)
{
    struct disk_pool *pool = (struct disk_pool *)queue;
    for (uint32_t i = 0; i < pool->spawned; i++) {
        __atomic_store_n(&pool->threads[i].state, DISK_POOL_END, __ATOMIC_RELEASE);
        disk_pool_wake(&pool->threads[i].state);
    }
    for (uint32_t i = 0; i < pool->spawned; i++)
        pthread_join(pool->threads[i].thread, NULL);
    free(pool->threads);
    free(pool->done);
    pool->threads = NULL;
    pool->done = NULL;
    pool->spawned = 0;
}

static int disk_pool_spawn(struct disk_pool *pool)
{
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (!error)
        error = pthread_attr_setstacksize(&attributes, DISK_POOL_STACK_BYTES);
    while (!error && pool->spawned < pool->target.depth) {
        struct disk_pool_thread *thread = &pool->threads[pool->spawned];
        thread->pool = pool;
        thread->slot = pool->spawned;
        error = pthread_create(&thread->thread, &attributes, disk_pool_main, thread);
        pool->spawned += !error;
    }
    pthread_attr_destroy(&attributes);
    return -error;
}

static int disk_pool_open(struct disk_queue *queue, const struct disk_target *target)
{
    struct disk_pool *pool = (struct disk_pool *)queue;
    memset(pool, 0, sizeof *pool);
    pool->target = *target;
    queue->call = "calloc";
    pool->done = calloc(target->depth, sizeof *pool->done);
    pool->threads = aligned_alloc(64, target->depth * sizeof *pool->threads);
    int error = pool->done && pool->threads ? 0 : -ENOMEM;
    if (!error) {
        memset(pool->threads, 0, target->depth * sizeof *pool->threads);
        queue->call = "pthread_create";
        error = disk_pool_spawn(pool);
    }
    if (error)
        disk_pool_close(queue);
    return error;
}

static void disk_pool_put(struct disk_queue *queue, uint32_t slot, enum disk_operation operation, uint64_t offset)
{
    struct disk_pool *pool = (struct disk_pool *)queue;
    pool->threads[slot].call = (struct disk_call){.operation = operation, .offset = offset};
    pool->put[pool->put_count++] = slot;
}

static int disk_pool_submit(struct disk_queue *queue)
{
    struct disk_pool *pool = (struct disk_pool *)queue;
    for (uint32_t i = 0; i < pool->put_count; i++) {
        struct disk_pool_thread *thread = &pool->threads[pool->put[i]];
        __atomic_store_n(&thread->state, DISK_POOL_DUE, __ATOMIC_RELEASE);
        disk_pool_wake(&thread->state);
    }
    pool->put_count = 0;
    return 0;
}

static int disk_pool_reap(struct disk_queue *queue, struct disk_completion out[DISK_BATCH], uint64_t wait_ns)
{
    struct disk_pool *pool = (struct disk_pool *)queue;
    const struct timespec timeout = clock_timespec(wait_ns);
    int count = 0;
    if (wait_ns && __atomic_load_n(&pool->ended, __ATOMIC_ACQUIRE) == pool->reaped)
        disk_pool_sleep(&pool->ended, pool->reaped, &timeout);
    while (count < DISK_BATCH) {
        uint64_t *at = &pool->done[pool->reaped % pool->target.depth];
        uint64_t done = __atomic_load_n(at, __ATOMIC_ACQUIRE);
        if (!done)
            break; /* none, or its thread is just about to say so */
        __atomic_store_n(at, 0, __ATOMIC_RELAXED);
        pool->reaped++;
        out[count++] = (struct disk_completion){.slot = (uint32_t)(done >> 32) - 1, .result = (int32_t)(uint32_t)done};
    }
    return count;
}

static const struct disk_backend THREADS = {
    .name = "threads",
    .capabilities = DISK_POOL,
    .max_depth = DISK_POOL_DEPTH,
    .state_bytes = sizeof(struct disk_pool),
    .open = disk_pool_open,
    .put = disk_pool_put,
    .submit = disk_pool_submit,
    .reap = disk_pool_reap,
    .close = disk_pool_close,
};

#endif
