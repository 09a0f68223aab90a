/* CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), by the processor's instruction where it has one. */
#ifndef CVMPROBE_CRC32C_H
#define CVMPROBE_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t crc32c_bit_by_bit(uint32_t crc, const unsigned char *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static inline uint32_t crc32c_by_word(uint32_t crc, const unsigned char *data,
                                                                          size_t bytes)
{
    uint64_t wide = crc, word;
    for (; bytes >= sizeof word; data += sizeof word, bytes -= sizeof word) {
        memcpy(&word, data, sizeof word);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    return crc32c_bit_by_bit((uint32_t)wide, data, bytes);
}

static inline int crc32c_is_fast(void)
{
    return __builtin_cpu_supports("sse4.2");
}
#else
static inline uint32_t crc32c_by_word(uint32_t crc, const unsigned char *data, size_t bytes)
{
    return crc32c_bit_by_bit(crc, data, bytes);
}

static inline int crc32c_is_fast(void)
{
    return 0;
}
#endif

static inline uint32_t crc32c(const void *data, size_t bytes)
{
    return ~(crc32c_is_fast() ? crc32c_by_word(~0u, data, bytes) : crc32c_bit_by_bit(~0u, data, bytes));
}

#endif
