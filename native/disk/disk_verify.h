/* Blocks that say what they are, and a ledger of what each should be: wrong data is found, not measured.
 *
 *     0       8        16       24           28       32
 *     | magic | run    | offset | generation | crc32c | what the buffer held ...     native byte order
 *
 * The CRC covers the whole block with its own field 0. The ledger knows the generation of every block and which are
 * in flight; a block in flight is not touched by a second operation, whose outcome would be anybody's guess.
 */
#ifndef CVMPROBE_DISK_VERIFY_H
#define CVMPROBE_DISK_VERIFY_H

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include "disk/crc32c.h"

#define DISK_HEADER_MAGIC UINT64_C(0x6b636f6c62706d76) /* "vmpblock" */
#define DISK_IN_FLIGHT (UINT32_C(1) << 31)
#define DISK_GENERATION (DISK_IN_FLIGHT - 1)

struct disk_header {
    uint64_t magic;
    uint64_t run; /* which execution and worker wrote it */
    uint64_t offset;
    uint32_t generation;
    uint32_t crc;
};
static_assert(sizeof(struct disk_header) == 32, "it lies on disk");

struct disk_ledger {
    uint32_t *blocks; /* generation of each, and DISK_IN_FLIGHT; generation 0: content not known. NULL: no verifying */
    uint64_t count;
    uint64_t run;
};

enum disk_verdict { DISK_SOUND, DISK_UNCHECKED, DISK_CORRUPT, DISK_MISPLACED, DISK_STALE };

/* Returns 0 or -errno. */
static inline int disk_ledger_open(struct disk_ledger *ledger, uint64_t run, uint64_t count, uint32_t generation)
{
    void *room = mmap(NULL, count * sizeof(uint32_t), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (room == MAP_FAILED)
        return -errno;
    *ledger = (struct disk_ledger){.blocks = room, .count = count, .run = run};
    for (uint64_t i = 0; i < count; i++)
        ledger->blocks[i] = generation;
    return 0;
}

static inline void disk_ledger_close(struct disk_ledger *ledger)
{
    if (ledger->blocks)
        munmap(ledger->blocks, ledger->count * sizeof(uint32_t));
    ledger->blocks = NULL;
}

/* Take `block`, or the next that is not in flight, into flight. There must be one. */
static inline uint64_t disk_ledger_claim(struct disk_ledger *ledger, uint64_t block)
{
    while (ledger->blocks[block] & DISK_IN_FLIGHT)
        block = block + 1 == ledger->count ? 0 : block + 1;
    ledger->blocks[block] |= DISK_IN_FLIGHT;
    return block;
}

static inline uint32_t disk_next_generation(const struct disk_ledger *ledger, uint64_t block)
{
    uint32_t next = (ledger->blocks[block] + 1) & DISK_GENERATION;
    return next ? next : 1;
}

/* Write the header of what is about to be written to `block`. */
static inline void disk_seal(const struct disk_ledger *ledger, uint64_t block, unsigned char *data, uint32_t bytes)
{
    struct disk_header header = {.magic = DISK_HEADER_MAGIC, .run = ledger->run, .offset = block * bytes,
                                 .generation = disk_next_generation(ledger, block)};
    memcpy(data, &header, sizeof header);
    header.crc = crc32c(data, bytes);
    memcpy(data, &header, sizeof header);
}

/* Spoils `data` for a second look. */
static inline enum disk_verdict disk_check(const struct disk_ledger *ledger, uint64_t block, unsigned char *data,
                                           uint32_t bytes)
{
    struct disk_header header;
    uint32_t expected = ledger->blocks[block] & DISK_GENERATION;
    if (!expected)
        return DISK_UNCHECKED;
    memcpy(&header, data, sizeof header);
    memset(data + offsetof(struct disk_header, crc), 0, sizeof header.crc);
    if (header.magic != DISK_HEADER_MAGIC || header.crc != crc32c(data, bytes))
        return DISK_CORRUPT;
    if (header.run != ledger->run || header.offset != block * bytes)
        return DISK_MISPLACED;
    return header.generation == expected ? DISK_SOUND : DISK_STALE;
}

/* The operation on `block` has ended; a write that failed may have left anything. */
static inline void disk_ledger_release(struct disk_ledger *ledger, uint64_t block, bool written, bool failed)
{
    uint32_t generation = written ? disk_next_generation(ledger, block) : ledger->blocks[block] & DISK_GENERATION;
    ledger->blocks[block] = written && failed ? 0 : generation;
}

#endif
