/* SHA-256 (FIPS 180-4) and HMAC (RFC 2104), as much of them as a hello needs: no allocation, no dependency. */
#ifndef CVMPROBE_SHA256_H
#define CVMPROBE_SHA256_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SHA256_BYTES 32
#define SHA256_BLOCK 64

struct sha256 {
    uint32_t state[8];
    uint64_t bytes;              /* hashed so far, with what waits in block */
    uint8_t block[SHA256_BLOCK]; /* the first bytes % 64 of it wait for the rest */
};

struct hmac {
    struct sha256 inner;
    struct sha256 outer;
};

/* First 32 bits of the fractions of the cube roots of the first 64 primes. */
static const uint32_t SHA256_ROUND[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static inline uint32_t sha256_rotate(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

/* Message schedule of one block: 16 words as they came, 48 mixed from them. */
static inline void sha256_expand(uint32_t w[64], const uint8_t *block)
{
    for (unsigned i = 0; i < 16; i++, block += 4)
        w[i] = (uint32_t)block[0] << 24 | (uint32_t)block[1] << 16 | (uint32_t)block[2] << 8 | block[3];
    for (unsigned i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        uint32_t mixed_a = sha256_rotate(a, 7) ^ sha256_rotate(a, 18) ^ a >> 3;
        uint32_t mixed_b = sha256_rotate(b, 17) ^ sha256_rotate(b, 19) ^ b >> 10;
        w[i] = w[i - 16] + mixed_a + w[i - 7] + mixed_b;
    }
}

static inline void sha256_compress(uint32_t state[8], const uint8_t *block)
{
    uint32_t w[64], v[8]; /* v: the working variables a to h */
    sha256_expand(w, block);
    memcpy(v, state, sizeof v);
    for (unsigned i = 0; i < 64; i++) {
        uint32_t e = sha256_rotate(v[4], 6) ^ sha256_rotate(v[4], 11) ^ sha256_rotate(v[4], 25);
        uint32_t a = sha256_rotate(v[0], 2) ^ sha256_rotate(v[0], 13) ^ sha256_rotate(v[0], 22);
        uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
        uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
        uint32_t t = v[7] + e + choice + SHA256_ROUND[i] + w[i];
        memmove(v + 1, v, 7 * sizeof v[0]);
        v[4] += t;
        v[0] = t + a + majority;
    }
    for (unsigned i = 0; i < 8; i++)
        state[i] += v[i];
}

static inline void sha256_init(struct sha256 *h)
{
    /* First 32 bits of the fractions of the square roots of the first 8 primes. */
    static const uint32_t start[8] = {
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
    };
    memcpy(h->state, start, sizeof start);
    h->bytes = 0;
}

static inline void sha256_update(struct sha256 *h, const void *data, size_t size)
{
    const uint8_t *from = (const uint8_t *)data;
    while (size) {
        size_t held = h->bytes % SHA256_BLOCK;
        size_t taken = SHA256_BLOCK - held < size ? SHA256_BLOCK - held : size;
        memcpy(h->block + held, from, taken);
        h->bytes += taken;
        from += taken;
        size -= taken;
        if (held + taken == SHA256_BLOCK)
            sha256_compress(h->state, h->block);
    }
}

static inline void sha256_final(struct sha256 *h, uint8_t digest[SHA256_BYTES])
{
    static const uint8_t padding[SHA256_BLOCK] = {0x80};
    uint64_t bits = h->bytes * 8;
    uint8_t length[8];
    for (unsigned i = 0; i < 8; i++)
        length[i] = (uint8_t)(bits >> (56 - 8 * i));
    size_t held = h->bytes % SHA256_BLOCK;
    sha256_update(h, padding, held < 56 ? 56 - held : 120 - held);
    sha256_update(h, length, sizeof length);
    for (unsigned i = 0; i < SHA256_BYTES; i++)
        digest[i] = (uint8_t)(h->state[i / 4] >> (24 - 8 * (i % 4)));
}

static inline void hmac_init(struct hmac *m, const uint8_t *key, size_t size)
{
    uint8_t padded[SHA256_BLOCK] = {0};
    if (size > SHA256_BLOCK) {
        sha256_init(&m->inner);
        sha256_update(&m->inner, key, size);
        sha256_final(&m->inner, padded);
    } else if (size) {
        memcpy(padded, key, size);
    }
    for (unsigned i = 0; i < SHA256_BLOCK; i++)
        padded[i] ^= 0x36;
    sha256_init(&m->inner);
    sha256_update(&m->inner, padded, sizeof padded);
    for (unsigned i = 0; i < SHA256_BLOCK; i++)
        padded[i] ^= 0x36 ^ 0x5c;
    sha256_init(&m->outer);
    sha256_update(&m->outer, padded, sizeof padded);
}

static inline void hmac_update(struct hmac *m, const void *data, size_t size)
{
    sha256_update(&m->inner, data, size);
}

static inline void hmac_final(struct hmac *m, uint8_t mac[SHA256_BYTES])
{
    uint8_t digest[SHA256_BYTES];
    sha256_final(&m->inner, digest);
    sha256_update(&m->outer, digest, sizeof digest);
    sha256_final(&m->outer, mac);
}

/* Whether two macs are equal, in a time that does not tell where they differ. */
static inline int hmac_equal(const uint8_t a[SHA256_BYTES], const uint8_t b[SHA256_BYTES])
{
    unsigned difference = 0;
    for (unsigned i = 0; i < SHA256_BYTES; i++)
        difference |= a[i] ^ b[i];
    return !difference;
}

#endif
