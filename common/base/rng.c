#include "base/rng.h"

#include <math.h>
#include <string.h>

static uint64_t splitmix64(uint64_t *x)
{
    uint64_t z = (*x += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t rotl(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}

void ew_rng_init(ew_rng *r, uint64_t seed, uint64_t stream)
{
    uint64_t x = seed;
    uint64_t y = splitmix64(&x) ^ (stream * 0xd1342543de82ef95u);
    for (int i = 0; i < 4; i++) {
        r->s[i] = splitmix64(&y);
    }
}

uint64_t ew_rng_u64(ew_rng *r)
{
    uint64_t *s = r->s;
    uint64_t result = rotl(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

uint64_t ew_rng_below(ew_rng *r, uint64_t n)
{
    EW_ASSERT(n > 0);
    uint64_t limit = UINT64_MAX - UINT64_MAX % n;
    uint64_t v;
    do {
        v = ew_rng_u64(r);
    } while (v >= limit);
    return v % n;
}

double ew_rng_f64(ew_rng *r)
{
    return (double)(ew_rng_u64(r) >> 11) * 0x1p-53;
}

double ew_rng_normal(ew_rng *r)
{
    double u = 1.0 - ew_rng_f64(r);
    double v = ew_rng_f64(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

void ew_rng_block(uint64_t seed, uint64_t stream, uint64_t i, uint32_t ret[static 4])
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t c0 = (uint32_t)i, c1 = (uint32_t)(i >> 32), c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xd2511f53u * c0, p1 = (uint64_t)0xcd9e8d57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    ret[0] = c0;
    ret[1] = c1;
    ret[2] = c2;
    ret[3] = c3;
}

void ew_rng_shuffle(ew_rng *r, void *items, size_t n, size_t size)
{
    unsigned char tmp[64];
    unsigned char *p = items;
    EW_ASSERT(size <= sizeof(tmp));
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)ew_rng_below(r, i);
        memcpy(tmp, p + (i - 1) * size, size);
        memmove(p + (i - 1) * size, p + j * size, size);
        memcpy(p + j * size, tmp, size);
    }
}
