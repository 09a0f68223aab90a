/* AES-128 over a counter, as an encrypting disk or network does it all day (FIPS 197): by the processor's own
 * instructions, or in plain C where it has none. The two are different engines, and never one figure. */
#ifndef CVMPROBE_COMPUTE_AES_H
#define CVMPROBE_COMPUTE_AES_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define AES_ROUNDS 10
#define AES_BLOCK_BYTES 16
#define AES_LANES 8 /* blocks in flight: enough to fill the pipeline of the instructions */

struct aes {
    uint8_t keys[AES_ROUNDS + 1][AES_BLOCK_BYTES];
    uint8_t box[256];
};

static inline uint8_t aes_double(uint8_t x)
{
    return (uint8_t)(x << 1 ^ (x >> 7) * 0x1b);
}

static inline uint8_t aes_rotl(uint8_t x, int by)
{
    return (uint8_t)(x << by | x >> (8 - by));
}

/* The S-box: the inverse in GF(2^8), then an affine map. p runs through all powers of 3, q through their inverses. */
static inline void aes_fill_box(uint8_t box[256])
{
    uint8_t p = 1, q = 1;
    do {
        p = (uint8_t)(p ^ aes_double(p));
        q ^= (uint8_t)(q << 1);
        q ^= (uint8_t)(q << 2);
        q ^= (uint8_t)(q << 4);
        q ^= (uint8_t)((q >> 7) * 0x09);
        box[p] = (uint8_t)(q ^ aes_rotl(q, 1) ^ aes_rotl(q, 2) ^ aes_rotl(q, 3) ^ aes_rotl(q, 4) ^ 0x63);
    } while (p != 1);
    box[0] = 0x63;
}

/* The key of every measurement: 0, 1, 2, ... 15. */
static inline void aes_init(struct aes *a)
{
    uint8_t *key = a->keys[0];
    uint8_t round_constant = 1;
    aes_fill_box(a->box);
    for (int i = 0; i < AES_BLOCK_BYTES; i++)
        key[i] = (uint8_t)i;
    for (int i = AES_BLOCK_BYTES; i < (AES_ROUNDS + 1) * AES_BLOCK_BYTES; i += 4) {
        uint8_t word[4];
        memcpy(word, key + i - 4, 4);
        if (i % AES_BLOCK_BYTES == 0) {
            uint8_t first = word[0];
            word[0] = (uint8_t)(a->box[word[1]] ^ round_constant);
            word[1] = a->box[word[2]];
            word[2] = a->box[word[3]];
            word[3] = a->box[first];
            round_constant = aes_double(round_constant);
        }
        for (int j = 0; j < 4; j++)
            key[i + j] = (uint8_t)(key[i - AES_BLOCK_BYTES + j] ^ word[j]);
    }
}

static inline void aes_mix_column(uint8_t *c)
{
    uint8_t all = (uint8_t)(c[0] ^ c[1] ^ c[2] ^ c[3]), first = c[0];
    for (int i = 0; i < 4; i++)
        c[i] ^= (uint8_t)(all ^ aes_double((uint8_t)(c[i] ^ (i < 3 ? c[i + 1] : first))));
}

static inline void aes_plain_block(const struct aes *a, uint8_t block[AES_BLOCK_BYTES])
{
    uint8_t shifted[AES_BLOCK_BYTES];
    for (int i = 0; i < AES_BLOCK_BYTES; i++)
        block[i] ^= a->keys[0][i];
    for (int round = 1; round <= AES_ROUNDS; round++) {
        for (int i = 0; i < AES_BLOCK_BYTES; i++)
            shifted[i] = a->box[block[(i + i % 4 * 4) % AES_BLOCK_BYTES]];
        for (int i = 0; i < AES_BLOCK_BYTES && round < AES_ROUNDS; i += 4)
            aes_mix_column(shifted + i);
        for (int i = 0; i < AES_BLOCK_BYTES; i++)
            block[i] = (uint8_t)(shifted[i] ^ a->keys[round][i]);
    }
}

/* Encrypt the blocks first, first + 1, ... (low half of a block: its number, high half: 0) and return the
 * exclusive or of all halves. `count` is a multiple of AES_LANES. */
static inline uint64_t aes_plain(const struct aes *a, uint64_t first, uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t i = first; i < first + count; i++) {
        uint64_t block[2] = {i, 0};
        aes_plain_block(a, (uint8_t *)block);
        sum ^= block[0] ^ block[1];
    }
    return sum;
}

#if defined(__x86_64__)
__attribute__((target("aes,sse4.1"))) static inline uint64_t aes_ni(const struct aes *a, uint64_t first, uint64_t count)
{
    __m128i keys[AES_ROUNDS + 1], lanes[AES_LANES], sum = _mm_setzero_si128();
    for (int round = 0; round <= AES_ROUNDS; round++)
        keys[round] = _mm_loadu_si128((const __m128i *)a->keys[round]);
    for (uint64_t i = first; i < first + count; i += AES_LANES) {
        for (int lane = 0; lane < AES_LANES; lane++)
            lanes[lane] = _mm_xor_si128(_mm_set_epi64x(0, (long long)(i + (uint64_t)lane)), keys[0]);
        for (int round = 1; round < AES_ROUNDS; round++)
            for (int lane = 0; lane < AES_LANES; lane++)
                lanes[lane] = _mm_aesenc_si128(lanes[lane], keys[round]);
        for (int lane = 0; lane < AES_LANES; lane++)
            sum = _mm_xor_si128(sum, _mm_aesenclast_si128(lanes[lane], keys[AES_ROUNDS]));
    }
    return (uint64_t)_mm_extract_epi64(sum, 0) ^ (uint64_t)_mm_extract_epi64(sum, 1);
}

static inline int aes_ni_is_there(void)
{
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("sse4.1");
}
#else
static inline int aes_ni_is_there(void)
{
    return 0;
}
#endif

#endif
