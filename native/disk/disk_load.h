/* What one worker of the disk engine does: it draws operations, keeps them in flight, stamps and counts them.
 *
 *     intended     before        after                          seen      CLOCK_MONOTONIC, read in the worker:
 *        |--- wait --|-submit_ns-|---------- device_ns -----------|       once before and once after each submitting
 *        |           |------------- service_ns -------------------|       call, once after each reap
 *        |------------------------- total_ns ---------------------|
 *
 * In a closed loop an operation is meant to start when it does: intended = before. In an open loop `intended` is given
 * by the rate, whatever the device does (no coordinated omission).
 */
#ifndef CVMPROBE_DISK_LOAD_H
#define CVMPROBE_DISK_LOAD_H

#include "engine/counters.h"
#include "disk/disk_backends.h"
#include "disk/disk_seam.h"
#include "disk/disk_verify.h"
#include "engine/histogram.h"
#include "engine/pace.h"
#include "engine/ring.h"
#include "engine/worker.h"

enum {
    DISK_PAGE_BYTES = 4096,
    DISK_MAX_FAILURES = 64,        /* in a row: then the worker ends */
    DISK_SLOW_SYNC_NS = 10000000,  /* what etcd advises 99 of 100 fdatasyncs to stay under */
    DISK_LOOK_NS = 10000,          /* to a start this near one looks for completions: a sleep would cost more */
};
#define DISK_DRAIN_NS UINT64_C(2000000000) /* how long operations in flight at the deadline may take */

/* The operation that holds a slot. */
struct disk_slot {
    uint64_t intended_ns, before_ns, after_ns;
    uint64_t idle_ns; /* since when the slot had been free before */
    uint64_t block;
    enum disk_operation operation;
};

/* By what an operation is, DISK_READ or DISK_WRITE. */
struct disk_direction {
    uint64_t operations, bytes, cursor;
    struct histogram total;
};

struct disk_worker {
    struct worker worker;
    struct disk_target target;
    struct disk_choice choice;
    unsigned first_backend;
    bool backend_alone;
    bool sequential, mixed, open_loop, log;
    uint32_t read_percent;
    uint32_t sync_every, unsynced; /* writes per sync; writes since the last */
    uint64_t blocks;               /* of the file */
    int64_t *budget;               /* atomic, all workers': blocks that may still be written */
    uint64_t appends_left;         /* until a log is full */
    uint64_t appended_ns;          /* intended start of the first append since the last sync; 0: there is none */
    bool spent;                    /* no more may be written */
    uint64_t stamp;
    struct pace pace;
    uint64_t phase_ns; /* of the first operation, so that workers do not start at the same moments */
    uint64_t next_ns;  /* intended start of the next operation; closed loop: 0 */
    uint32_t failures_in_a_row;
    uint32_t idle_count;
    uint32_t idle[DISK_MAX_DEPTH];
    struct disk_slot slots[DISK_MAX_DEPTH];
    struct disk_ledger ledger;
    uint64_t corrupt_blocks, misplaced_blocks, stale_blocks, unchecked_reads;
    uint64_t first_bad_offset; /* UINT64_MAX: none */
    uint64_t syncs, slow_syncs;
    uint64_t short_transfers, io_errors, space_errors, other_errors;
    uint64_t abandoned, late, unstarted, pool_cpu_ns;
    struct ring samples;
    struct disk_direction directions[2];
    struct histogram total, submit, device, service, sync, commit;
};

/* Uniform in [0, n): the high half of a 64 x 64 bit product; biased by less than n / 2^64. */
static inline uint64_t disk_scale(uint64_t random, uint64_t n)
{
    return (uint64_t)((unsigned __int128)random * n >> 64);
}

static int disk_prepare(struct worker *base)
{
    struct disk_worker *w = (struct disk_worker *)base;
    const char *call = NULL;
    int error = disk_choose_backend(&w->choice, w->first_backend, w->backend_alone, &w->target, &call);
    if (error)
        worker_fail(base, call, -error);
    else if (w->choice.backend->capabilities & DISK_POOL)
        w->pool_cpu_ns = 0; /* elsewhere it stays unknown */
    w->idle_count = error ? 0 : w->choice.depth;
    for (uint32_t i = 0; i < w->idle_count; i++)
        w->idle[i] = i;
    return error;
}

/* Whether one more block may be written. */
static inline bool disk_claim_write(struct disk_worker *w)
{
    if (!w->appends_left || __atomic_fetch_sub(w->budget, 1, __ATOMIC_RELAXED) <= 0) {
        w->spent = true;
        return false;
    }
    w->appends_left--;
    return true;
}

static inline enum disk_operation disk_draw_operation(struct disk_worker *w)
{
    if (w->sync_every && w->unsynced >= w->sync_every)
        return DISK_SYNC;
    if (!w->mixed)
        return w->read_percent ? DISK_READ : DISK_WRITE;
    return disk_scale(pace_random(&w->pace), 100) < w->read_percent ? DISK_READ : DISK_WRITE;
}

static inline uint64_t disk_draw_block(struct disk_worker *w, enum disk_operation operation)
{
    uint64_t block;
    if (w->sequential) {
        uint64_t *cursor = &w->directions[operation].cursor;
        block = *cursor;
        *cursor = block + 1 == w->blocks ? 0 : block + 1;
    } else {
        block = disk_scale(pace_random(&w->pace), w->blocks);
    }
    return w->ledger.blocks ? disk_ledger_claim(&w->ledger, block) : block;
}

/* What is written differs from all written before, page by page, so that nothing on the way can store it once. */
static inline void disk_fill_block(struct disk_worker *w, uint32_t slot, uint64_t block)
{
    unsigned char *data = w->target.buffers + (size_t)slot * w->target.block_bytes;
    for (uint32_t at = 0; at + sizeof w->stamp <= w->target.block_bytes; at += DISK_PAGE_BYTES) {
        w->stamp++;
        memcpy(data + at, &w->stamp, sizeof w->stamp);
    }
    if (w->ledger.blocks)
        disk_seal(&w->ledger, block, data, w->target.block_bytes);
}

/* Queue the next operation on `slot`; false: nothing more may be written. */
static bool disk_put(struct disk_worker *w, uint32_t slot)
{
    struct disk_slot *s = &w->slots[slot];
    s->operation = disk_draw_operation(w);
    if (s->operation == DISK_SYNC) {
        w->unsynced = 0;
        s->intended_ns = 0;
        w->choice.backend->put(w->choice.queue, slot, DISK_SYNC, 0);
        return true;
    }
    if (s->operation == DISK_WRITE && !disk_claim_write(w))
        return false;
    s->block = disk_draw_block(w, s->operation);
    if (s->operation == DISK_WRITE) {
        disk_fill_block(w, slot, s->block);
        w->unsynced++;
    }
    s->intended_ns = w->next_ns;
    w->choice.backend->put(w->choice.queue, slot, s->operation, s->block * w->target.block_bytes);
    if (w->open_loop)
        w->next_ns = pace_next(&w->pace);
    return true;
}

/* One submitting call for the last `batch` slots that were taken from the idle ones. */
static bool disk_submit(struct disk_worker *w, uint32_t batch)
{
    uint64_t before = clock_now_ns();
    int error = w->choice.backend->submit(w->choice.queue);
    uint64_t after = clock_now_ns();
    if (error < 0) {
        worker_fail(&w->worker, w->choice.queue->call, -error);
        return false;
    }
    for (uint32_t i = 0; i < batch; i++) {
        struct disk_slot *s = &w->slots[w->idle[w->idle_count + i]];
        if (!s->intended_ns) {
            s->intended_ns = before;
        } else { /* a wait for a free slot is the device's doing, only what came after it is ours */
            uint64_t could = s->idle_ns > s->intended_ns ? s->idle_ns : s->intended_ns;
            counter_add(&w->late, before > could + PACE_LATE_NS);
        }
        s->before_ns = before;
        s->after_ns = after;
    }
    return true;
}

/* Put every idle slot to work for which an operation is due by `now`. False: the submitting call failed. */
static bool disk_submit_due(struct disk_worker *w, uint64_t now)
{
    for (;;) {
        uint32_t batch = 0;
        while (batch < DISK_BATCH && w->idle_count && w->next_ns <= now && !w->spent) {
            if (!disk_put(w, w->idle[w->idle_count - 1]))
                break;
            w->idle_count--;
            batch++;
        }
        if (!batch)
            return true;
        if (!disk_submit(w, batch))
            return false;
    }
}

/* Count an operation that moved less than a block, by kind; too many in a row end the worker. */
static void disk_count_failure(struct disk_worker *w, enum disk_operation operation, int32_t result)
{
    static const char *const calls[] = {"pread", "pwrite", "fsync"};
    if (result >= 0)
        counter_add(&w->short_transfers, 1);
    else if (result == -EIO)
        counter_add(&w->io_errors, 1);
    else if (result == -ENOSPC)
        counter_add(&w->space_errors, 1);
    else
        counter_add(&w->other_errors, 1);
    if (++w->failures_in_a_row >= DISK_MAX_FAILURES)
        worker_fail(&w->worker, calls[operation], result < 0 ? -result : EIO);
}

static void disk_verify(struct disk_worker *w, uint32_t slot)
{
    uint64_t *counters[] = {[DISK_UNCHECKED] = &w->unchecked_reads, [DISK_CORRUPT] = &w->corrupt_blocks,
                            [DISK_MISPLACED] = &w->misplaced_blocks, [DISK_STALE] = &w->stale_blocks};
    uint64_t block = w->slots[slot].block;
    unsigned char *data = w->target.buffers + (size_t)slot * w->target.block_bytes;
    enum disk_verdict verdict = disk_check(&w->ledger, block, data, w->target.block_bytes);
    if (verdict == DISK_SOUND)
        return;
    counter_add(counters[verdict], 1);
    if (verdict != DISK_UNCHECKED && w->first_bad_offset == UINT64_MAX)
        counter_set(&w->first_bad_offset, block * w->target.block_bytes);
}

static void disk_record_sync(struct disk_worker *w, const struct disk_slot *s, uint32_t slot, uint64_t seen)
{
    uint64_t took = seen - s->before_ns;
    histogram_record(&w->sync, took);
    if (w->log && w->appended_ns)
        histogram_record(&w->commit, seen - w->appended_ns);
    w->appended_ns = 0;
    ring_push(&w->samples, s->before_ns, took, DISK_SYNC, 0, (uint16_t)slot);
    counter_add(&w->slow_syncs, took > DISK_SLOW_SYNC_NS);
    counter_add(&w->syncs, 1);
}

static void disk_record(struct disk_worker *w, const struct disk_slot *s, uint32_t slot, uint64_t seen)
{
    struct disk_direction *direction = &w->directions[s->operation];
    uint64_t total = seen - s->intended_ns;
    if (!w->appended_ns)
        w->appended_ns = s->intended_ns;
    histogram_record(&w->total, total);
    histogram_record(&w->submit, s->after_ns - s->before_ns);
    histogram_record(&w->device, seen - s->after_ns);
    if (w->open_loop)
        histogram_record(&w->service, seen - s->before_ns);
    if (w->mixed)
        histogram_record(&direction->total, total);
    ring_push(&w->samples, s->intended_ns, total, (uint8_t)s->operation, 0, (uint16_t)slot);
    counter_add(&direction->bytes, w->target.block_bytes);
    counter_add(&direction->operations, 1);
}

static void disk_complete(struct disk_worker *w, const struct disk_completion *done, uint64_t seen)
{
    struct disk_slot *s = &w->slots[done->slot];
    int32_t result = disk_seam_result(s->operation, done->result);
    bool failed = result != (s->operation == DISK_SYNC ? 0 : (int32_t)w->target.block_bytes);
    if (w->ledger.blocks && s->operation == DISK_READ && !failed)
        disk_verify(w, done->slot);
    if (w->ledger.blocks && s->operation != DISK_SYNC)
        disk_ledger_release(&w->ledger, s->block, s->operation == DISK_WRITE, failed);
    s->idle_ns = seen;
    w->idle[w->idle_count++] = done->slot;
    if (failed) {
        disk_count_failure(w, s->operation, result);
        return;
    }
    w->failures_in_a_row = 0;
    if (s->operation == DISK_SYNC)
        disk_record_sync(w, s, done->slot, seen);
    else
        disk_record(w, s, done->slot, seen);
}

/* Take what has ended, waiting for the first; return the time it was seen, 0 when the call failed. */
static uint64_t disk_reap(struct disk_worker *w, uint64_t wait_ns)
{
    struct disk_completion done[DISK_BATCH];
    int count = w->choice.backend->reap(w->choice.queue, done, wait_ns);
    uint64_t seen = clock_now_ns();
    if (count < 0) {
        worker_fail(&w->worker, w->choice.queue->call, -count);
        return 0;
    }
    for (int i = 0; i < count; i++)
        disk_complete(w, &done[i], seen);
    if (w->choice.backend->capabilities & DISK_POOL)
        counter_set(&w->pool_cpu_ns, __atomic_load_n(&w->choice.queue->pool_cpu_ns, __ATOMIC_RELAXED));
    return seen;
}

/* Wait for a completion or, where a slot is free for it, for the start of the next operation; just before that, look. */
static uint64_t disk_await(struct disk_worker *w, uint64_t now)
{
    uint64_t wake_ns = w->worker.deadline_ns;
    if (w->open_loop && w->idle_count && w->next_ns < wake_ns)
        wake_ns = w->next_ns;
    uint64_t wait_ns = wake_ns > now ? wake_ns - now : 0;
    if (w->open_loop && wait_ns < DISK_LOOK_NS)
        wait_ns = 0;
    if (wait_ns > DISK_WAIT_NS)
        wait_ns = DISK_WAIT_NS;
    if (w->idle_count < w->choice.depth)
        return disk_reap(w, wait_ns);
    clock_sleep_until(now + wait_ns);
    return clock_now_ns();
}

/* Let what is in flight end, unless asked to stop. */
static void disk_drain(struct disk_worker *w, uint64_t now)
{
    uint64_t give_up_ns = now + DISK_DRAIN_NS;
    while (w->idle_count < w->choice.depth && worker_running(&w->worker) && !w->worker.error_call && now &&
           now < give_up_ns)
        now = disk_reap(w, DISK_WAIT_NS);
    counter_add(&w->abandoned, w->choice.depth - w->idle_count);
}

static void disk_begin(struct disk_worker *w)
{
    if (!w->open_loop)
        return;
    pace_start(&w->pace, w->worker.start_ns + w->phase_ns);
    w->next_ns = pace_next(&w->pace);
}

/* Operations that were due and never started: an open loop owes them. Of those issued, the last is the next to start. */
static void disk_count_unstarted(struct disk_worker *w, uint64_t now)
{
    uint64_t end_ns = now < w->worker.deadline_ns ? now : w->worker.deadline_ns;
    if (w->open_loop && w->next_ns < end_ns)
        counter_add(&w->unstarted, pace_due(&w->pace, end_ns) - (w->pace.issued - 1));
}

static void disk_loop(struct worker *base)
{
    struct disk_worker *w = (struct disk_worker *)base;
    uint64_t now = base->start_ns;
    disk_begin(w);
    while (worker_running(base) && now && now < base->deadline_ns && !base->error_call && !w->spent) {
        if (!disk_submit_due(w, now))
            break;
        now = disk_await(w, now);
    }
    disk_count_unstarted(w, now);
    disk_drain(w, now);
}

#endif
