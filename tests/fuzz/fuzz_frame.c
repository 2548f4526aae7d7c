/* The frame decoder: one shot and random splits must agree, memory follows what was received. The first byte seeds the splits. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "base/rng.h"
#include "net/frame.h"

static uint64_t run(const uint8_t *data, size_t size, ew_rng *r)
{
    ew_frame_decoder d;
    uint64_t sum = size;
    size_t at = 0;
    ew_status st = EW_OK;
    ew_frame_decoder_init(&d, EW_LIMIT_FRAME_BYTES);
    while (at < size && st == EW_OK) {
        size_t n = r != NULL ? 1 + ew_rng_below(r, 97) : size;
        n = n < size - at ? n : size - at;
        ew_span s = {data + at, n};
        while (s.size > 0 && st == EW_OK) {
            ew_frame *f = NULL;
            st = ew_frame_decode(&d, &s, &f, NULL);
            if (ew_frame_decoder_memory(&d) > 2 * (at + n) + 8192) {
                abort();
            }
            if (f != NULL) {
                sum = sum * 31 + f->envelope.size;
                sum = sum * 31 + f->body.size;
                for (size_t i = 0; i < f->body.size; i++) {
                    sum = sum * 31 + ((const uint8_t *)f->body.data)[i];
                }
                ew_frame_free(&f);
            }
        }
        at += n;
    }
    ew_frame_decoder_release(&d);
    return sum * 31 + (uint64_t)(st == EW_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    ew_rng r;
    ew_rng_init(&r, data[0], 0);
    if (run(data + 1, size - 1, NULL) != run(data + 1, size - 1, &r)) {
        abort();
    }
    return 0;
}
