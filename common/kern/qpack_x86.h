/* Unpacking of weights into panels, once for AVX2 and AVX-512: included by qmul_avx2.c and qmul_avx512.c after they have defined
 *   pi, pf, PR                integer and float vectors of PR lanes of 32 bits; lane r belongs to row r
 *   p_and p_or p_add8(a, b)  p_srl p_sll p_sra(v, n)  p_set8(c) p_set32(c)  p_lut(table, index)  p_itof(v)
 *   p_halftof(v)              f16 in the low halves of the lanes (high halves 0)
 *   f_mul(a, b)  f_neg(a)  p_storei(p, v)  p_storef(p, v)
 *   p_or_bit(v, h, k, to)     v | ((byte h >> k) & 1) << to, by bytes
 *   P_BIAS(lo)                what is added to the file's unsigned codes, of which the smallest means lo
 *   P_SIGNED(v)               s8 codes as the panel has them
 *   load_planes(r, at, o)     o[i] = dword i of the 16 bytes at r[row] + at, i < 4
 *   load_halves(r, at)        the f16 at r[row] + at, as floats
 *   panel_t, PANEL_ROWS       codes[kb][8][PANEL_ROWS * 4], s and m [kb][2][PANEL_ROWS]
 * A code dword i of a block is its elements 4 i .. 4 i + 3. All the formulas are those of blocks.h. */

typedef struct packer {
    const uint8_t *r[PR]; /* where the first block of each row starts */
    size_t off;           /* of the block at hand from there */
    panel_t *p;
    size_t b;   /* block of the panel that comes next */
    size_t row; /* first row of the panel that these lanes are */
} packer;

static inline void put_codes(const packer *k, size_t b, size_t i, pi v)
{
    p_storei(&k->p->codes[k->b + b][i][4 * k->row], v);
}

static inline void put_s(const packer *k, size_t b, size_t g, pf v)
{
    p_storef(&k->p->s[k->b + b][g][k->row], v);
}

static inline void put_m(const packer *k, size_t b, size_t g, pf v)
{
    p_storef(&k->p->m[k->b + b][g][k->row], v);
}

static inline pi low4(pi v)
{
    return p_and(v, p_set8(15));
}

static inline pi high4(pi v)
{
    return p_and(p_srl(v, 4), p_set8(15));
}

static inline pi biased(pi v, int bias)
{
    return bias != 0 ? p_add8(v, p_set8((char)bias)) : v;
}

/* Byte k of each lane. */
static inline pi byte_of(pi v, int k)
{
    return p_and(p_srl(v, 8 * k), p_set32(255));
}

static inline pi signed_byte_of(pi v, int k)
{
    return p_sra(p_sll(v, 24 - 8 * k), 24);
}

static inline void pack_q4_0(const packer *k)
{
    pi q[4];
    load_planes(k->r, k->off + 2, q);
    for (size_t i = 0; i < 4; i++) {
        put_codes(k, 0, i, biased(low4(q[i]), P_BIAS(-8)));
        put_codes(k, 0, i + 4, biased(high4(q[i]), P_BIAS(-8)));
    }
    put_s(k, 0, 0, load_halves(k->r, k->off));
}

static inline void pack_iq4_nl(const packer *k)
{
    pi q[4];
    load_planes(k->r, k->off + 2, q);
    for (size_t i = 0; i < 4; i++) {
        put_codes(k, 0, i, P_SIGNED(p_lut(p_iq4_levels(), low4(q[i]))));
        put_codes(k, 0, i + 4, P_SIGNED(p_lut(p_iq4_levels(), high4(q[i]))));
    }
    put_s(k, 0, 0, load_halves(k->r, k->off));
}

static inline void pack_q4_1(const packer *k)
{
    pi q[4];
    load_planes(k->r, k->off + 4, q);
    for (size_t i = 0; i < 4; i++) {
        put_codes(k, 0, i, low4(q[i]));
        put_codes(k, 0, i + 4, high4(q[i]));
    }
    put_s(k, 0, 0, load_halves(k->r, k->off));
    put_m(k, 0, 0, f_neg(load_halves(k->r, k->off + 2)));
}

/* Q5_0 and Q5_1. The 32 fifth bits of a row are a dword: of each code dword i, four of them go to its bytes. */
static inline void pack_q5(const packer *k, bool min)
{
    pi head[4], q[4], h;
    load_planes(k->r, k->off, head);
    load_planes(k->r, k->off + (min ? 8 : 6), q);
    h = min ? head[1] : p_or(p_srl(head[0], 16), p_sll(head[1], 16));
    for (int i = 0; i < 8; i++) {
        pi v = i < 4 ? low4(q[i]) : high4(q[i - 4]);
        v = p_or_bits(v, h, i);
        put_codes(k, 0, (size_t)i, min ? v : biased(v, P_BIAS(-16)));
    }
    put_s(k, 0, 0, p_halftof(p_and(head[0], p_set32(0xffff))));
    if (min) {
        put_m(k, 0, 0, f_neg(p_halftof(p_srl(head[0], 16))));
    }
}

static inline void pack_q8_0(const packer *k)
{
    for (size_t i = 0; i < 8; i += 4) {
        pi q[4];
        load_planes(k->r, k->off + 2 + 4 * i, q);
        for (size_t j = 0; j < 4; j++) {
            put_codes(k, 0, i + j, P_SIGNED(q[j]));
        }
    }
    put_s(k, 0, 0, load_halves(k->r, k->off));
}

/* The sixteen bytes at the head of Q4_K and Q5_K: d, dmin and twelve bytes of scales and minima. */
static inline void pack_k45_scales(const packer *k)
{
    pi head[4], s[2], m[2];
    load_planes(k->r, k->off, head);
    const pi six = p_set8(63), two = p_set8(0x30);
    s[0] = p_and(head[1], six);
    m[0] = p_and(head[2], six);
    s[1] = p_or(low4(head[3]), p_and(p_srl(head[1], 2), two));
    m[1] = p_or(high4(head[3]), p_and(p_srl(head[2], 2), two));
    pf d = p_halftof(p_and(head[0], p_set32(0xffff))), dmin = p_halftof(p_srl(head[0], 16));
    for (int g = 0; g < 8; g++) {
        put_s(k, (size_t)g, 0, f_mul(d, p_itof(byte_of(s[g / 4], g % 4))));
        put_m(k, (size_t)g, 0, f_mul(dmin, p_itof(byte_of(m[g / 4], g % 4))));
    }
}

static inline void pack_q4_k(const packer *k)
{
    pack_k45_scales(k);
    for (size_t p = 0; p < 8; p++) {
        pi q[4];
        load_planes(k->r, k->off + 16 + 16 * p, q);
        for (size_t i = 0; i < 4; i++) {
            put_codes(k, p / 2 * 2, 4 * (p % 2) + i, low4(q[i]));
            put_codes(k, p / 2 * 2 + 1, 4 * (p % 2) + i, high4(q[i]));
        }
    }
}

static inline void pack_q5_k(const packer *k)
{
    pi h[8];
    pack_k45_scales(k);
    load_planes(k->r, k->off + 16, h);
    load_planes(k->r, k->off + 32, h + 4);
    P_UNROLL for (int p = 0; p < 8; p++)
    {
        pi q[4];
        load_planes(k->r, k->off + 48 + 16 * (size_t)p, q);
        int g = p / 2 * 2, at = 4 * (p % 2);
        P_UNROLL for (int i = 0; i < 4; i++)
        {
            put_codes(k, (size_t)g, (size_t)(at + i), p_or_bit(low4(q[i]), h[at + i], g, 4));
            put_codes(k, (size_t)g + 1, (size_t)(at + i), p_or_bit(high4(q[i]), h[at + i], g + 1, 4));
        }
    }
}

/* Two bits of h from bit k on become bits 4 and 5. */
static inline pi two_to_4(pi h, int k)
{
    return p_and(k < 4 ? p_sll(h, 4 - k) : p_srl(h, k - 4), p_set8(0x30));
}

static inline void pack_q6_k(const packer *k)
{
    pi sc[4];
    P_UNROLL for (int p = 0; p < 4; p++)
    {
        size_t n = (size_t)p / 2, half = (size_t)p % 2, b = 4 * n;
        pi a[4], c[4], h[4];
        load_planes(k->r, k->off + 64 * n + 16 * half, a);
        load_planes(k->r, k->off + 64 * n + 32 + 16 * half, c);
        load_planes(k->r, k->off + 128 + 32 * n + 16 * half, h);
        P_UNROLL for (size_t i = 0; i < 4; i++)
        {
            size_t at = 4 * half + i;
            put_codes(k, b, at, biased(p_or(low4(a[i]), two_to_4(h[i], 0)), P_BIAS(-32)));
            put_codes(k, b + 1, at, biased(p_or(low4(c[i]), two_to_4(h[i], 2)), P_BIAS(-32)));
            put_codes(k, b + 2, at, biased(p_or(high4(a[i]), two_to_4(h[i], 4)), P_BIAS(-32)));
            put_codes(k, b + 3, at, biased(p_or(high4(c[i]), two_to_4(h[i], 6)), P_BIAS(-32)));
        }
    }
    load_planes(k->r, k->off + 192, sc);
    pf d = load_halves(k->r, k->off + 208);
    P_UNROLL for (int g = 0; g < 16; g++)
    {
        put_s(k, (size_t)g / 2, (size_t)g % 2, f_mul(d, p_itof(signed_byte_of(sc[g / 4], g % 4))));
    }
}

static inline void pack_q2_k(const packer *k)
{
    pi sc[4];
    load_planes(k->r, k->off, sc);
    pf d = load_halves(k->r, k->off + 80), dmin = load_halves(k->r, k->off + 82);
    P_UNROLL for (int g = 0; g < 16; g++)
    {
        pi v = byte_of(sc[g / 4], g % 4);
        put_s(k, (size_t)g / 2, (size_t)g % 2, f_mul(d, p_itof(p_and(v, p_set32(15)))));
        put_m(k, (size_t)g / 2, (size_t)g % 2, f_mul(dmin, p_itof(p_srl(v, 4))));
    }
    for (size_t p = 0; p < 4; p++) {
        pi q[4];
        load_planes(k->r, k->off + 16 + 16 * p, q);
        P_UNROLL for (int j = 0; j < 4; j++)
        {
            for (size_t i = 0; i < 4; i++) {
                put_codes(k, p / 2 * 4 + (size_t)j, 4 * (p % 2) + i, p_and(p_srl(q[i], 2 * j), p_set8(3)));
            }
        }
    }
}

/* Twelve bytes at 96, read from 94 so that nothing behind the block is touched. */
static inline void pack_q3_k_scales(const packer *k)
{
    pi raw[4], s[3];
    load_planes(k->r, k->off + 94, raw);
    for (int i = 0; i < 3; i++) {
        s[i] = p_or(p_srl(raw[i], 16), p_sll(raw[i + 1], 16));
    }
    pf d = p_halftof(p_srl(raw[3], 16));
    P_UNROLL for (int q = 0; q < 4; q++)
    {
        pi v = q < 2 ? low4(s[q]) : high4(s[q - 2]);
        v = p_or(v, p_sll(p_and(p_srl(s[2], 2 * q), p_set8(3)), 4));
        v = p_add8(v, p_set8(-32));
        P_UNROLL for (int j = 0; j < 4; j++)
        {
            int g = 4 * q + j;
            put_s(k, (size_t)g / 2, (size_t)g % 2, f_mul(d, p_itof(signed_byte_of(v, j))));
        }
    }
}

static inline void pack_q3_k(const packer *k)
{
    pi h[8];
    pack_q3_k_scales(k);
    load_planes(k->r, k->off, h);
    load_planes(k->r, k->off + 16, h + 4);
    P_UNROLL for (int p = 0; p < 4; p++)
    {
        pi q[4];
        load_planes(k->r, k->off + 32 + 16 * (size_t)p, q);
        P_UNROLL for (int j = 0; j < 4; j++)
        {
            int g = p / 2 * 4 + j, at = 4 * (p % 2);
            P_UNROLL for (int i = 0; i < 4; i++)
            {
                pi v = p_or_bit(p_and(p_srl(q[i], 2 * j), p_set8(3)), h[at + i], g, 2);
                put_codes(k, (size_t)g, (size_t)(at + i), biased(v, P_BIAS(-4)));
            }
        }
    }
}

static inline void pack_iq4_xs(const packer *k)
{
    pi head[4];
    load_planes(k->r, k->off, head);
    pf d = p_halftof(p_and(head[0], p_set32(0xffff)));
    pi sh = p_srl(head[0], 16);
    P_UNROLL for (int g = 0; g < 8; g++)
    {
        pi v = p_and(p_srl(head[1], 4 * g), p_set32(15));
        v = p_or(v, p_sll(p_and(p_srl(sh, 2 * g), p_set32(3)), 4));
        put_s(k, (size_t)g, 0, f_mul(d, p_itof(p_add32(v, p_set32(-32)))));
        pi q[4];
        load_planes(k->r, k->off + 8 + 16 * (size_t)g, q);
        P_UNROLL for (size_t i = 0; i < 4; i++)
        {
            put_codes(k, (size_t)g, i, P_SIGNED(p_lut(p_iq4_levels(), low4(q[i]))));
            put_codes(k, (size_t)g, i + 4, P_SIGNED(p_lut(p_iq4_levels(), high4(q[i]))));
        }
    }
}

/* Blocks [b0, b0 + n) of PR rows; a step is a block of the file. */
#define PACK_ALL(call)                                                                                                 \
    for (; k.b < n; k.b += step, k.off += bytes) {                                                                     \
        call;                                                                                                          \
    }                                                                                                                  \
    break

static void pack_lanes(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows, size_t b0, size_t n, panel_t *panel,
                       size_t row)
{
    const ew_dtype_info *info = ew_dtype_get(t);
    const size_t step = info->block_elems / 32, bytes = info->block_bytes;
    packer k = {.p = panel, .row = row};
    for (size_t i = 0; i < PR; i++) {
        k.r[i] = w + EW_MIN(row + i, rows - 1) * row_bytes + b0 / step * bytes;
    }
    switch (t) {
    case EW_DTYPE_Q4_0:
        PACK_ALL(pack_q4_0(&k));
    case EW_DTYPE_Q4_1:
        PACK_ALL(pack_q4_1(&k));
    case EW_DTYPE_Q5_0:
        PACK_ALL(pack_q5(&k, false));
    case EW_DTYPE_Q5_1:
        PACK_ALL(pack_q5(&k, true));
    case EW_DTYPE_Q8_0:
        PACK_ALL(pack_q8_0(&k));
    case EW_DTYPE_Q2_K:
        PACK_ALL(pack_q2_k(&k));
    case EW_DTYPE_Q3_K:
        PACK_ALL(pack_q3_k(&k));
    case EW_DTYPE_Q4_K:
        PACK_ALL(pack_q4_k(&k));
    case EW_DTYPE_Q5_K:
        PACK_ALL(pack_q5_k(&k));
    case EW_DTYPE_Q6_K:
        PACK_ALL(pack_q6_k(&k));
    case EW_DTYPE_IQ4_NL:
        PACK_ALL(pack_iq4_nl(&k));
    case EW_DTYPE_IQ4_XS:
        PACK_ALL(pack_iq4_xs(&k));
    default:
        ew_assert_fail(__FILE__, __LINE__, "a quantised type");
    }
}

static void pack(ew_dtype t, const uint8_t *w, size_t row_bytes, size_t rows, size_t b0, size_t n, void *panel)
{
    for (size_t row = 0; row < PANEL_ROWS; row += PR) {
        pack_lanes(t, w, row_bytes, rows, b0, n, panel, row);
    }
}
