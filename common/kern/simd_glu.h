/* SwiGLU of an ISA's file, included after simd_attn.h, whose 2^x it takes: y = gate up / (1 + 2^(-gate log2 e)). */

ATTN_INLINE vf v_glu(vf a, vf u)
{
    /* Above 2^127 there is no need to know how far. NaN stays. */
    vf t = v_min(v_set1(127.9f), v_mul(a, v_set1(-1.44269504f)));
    return v_div(v_mul(a, u), v_add(v_set1(1.0f), v_exp2(t)));
}

static void s_glu(const float *gate, const float *up, size_t n, float *y)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        v_store(y + i, v_glu(v_load(gate + i), v_load(up + i)));
    }
    if (i < n) {
        v_storen(y + i, n - i, v_glu(v_loadn(gate + i, n - i), v_loadn(up + i, n - i)));
    }
}
