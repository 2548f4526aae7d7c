#include "split/activation.h"

#include <math.h>
#include <string.h>

#include "kern/dtype.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "activations are little-endian on the wire: add the swap for this machine"
#endif

#define F16_MAX 65504.0f

size_t ew_activation_bytes(ew_activation a)
{
    return a == EW_ACTIVATION_F16 ? 2 : 4;
}

void ew_activation_encode(ew_activation a, const float *x, size_t n, void *dst)
{
    if (a == EW_ACTIVATION_F32) {
        memcpy(dst, x, n * sizeof(float));
        return;
    }
    unsigned char *out = dst;
    for (size_t i = 0; i < n; i++) {
        uint16_t h = ew_f32_to_f16(fminf(fmaxf(x[i], -F16_MAX), F16_MAX));
        memcpy(out + 2 * i, &h, 2);
    }
}

ew_status ew_activation_decode(ew_activation a, const void *src, size_t n, float *x, ew_error *reterr)
{
    const unsigned char *in = src;
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        if (a == EW_ACTIVATION_F32) {
            memcpy(&x[i], in + 4 * i, 4);
        } else {
            uint16_t h;
            memcpy(&h, in + 2 * i, 2);
            x[i] = ew_f16_to_f32(h);
        }
        finite = finite && isfinite(x[i]);
    }
    return finite ? EW_OK : ew_fail(reterr, EW_ECORRUPT, "the other side sent activations that are not finite");
}
