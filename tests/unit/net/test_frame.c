/* The frame decoder: any split gives the same frames, errors are final, memory follows what was received. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/rng.h"
#include "net/frame.h"

static void add_frame(ew_buf *out, size_t env_len, size_t body_len, unsigned char fill)
{
    unsigned char h[EW_FRAME_HEADER_BYTES];
    ew_frame_header(h, env_len, body_len);
    ew_buf_add(out, h, sizeof(h));
    memset(ew_buf_extend(out, env_len), fill, env_len);
    if (body_len > 0) {
        memset(ew_buf_extend(out, body_len), fill + 1, body_len);
    }
}

/* A digest of all frames of a stream that is given in pieces chosen by r; pieces of the whole when r is NULL. */
static uint64_t digest(const ew_buf *in, ew_rng *r, size_t max, unsigned *frames, ew_status *end)
{
    ew_frame_decoder d;
    uint64_t sum = 1469598103934665603ull;
    size_t at = 0;
    ew_frame_decoder_init(&d, max);
    *frames = 0;
    *end = EW_OK;
    while (at < in->size && *end == EW_OK) {
        size_t n = r != NULL ? 1 + ew_rng_below(r, 4000) : in->size;
        n = r != NULL && ew_rng_below(r, 4) == 0 ? 1 : n;
        n = n < in->size - at ? n : in->size - at;
        ew_span s = {in->data + at, n};
        while (s.size > 0 && *end == EW_OK) {
            ew_frame *f = NULL;
            *end = ew_frame_decode(&d, &s, &f, NULL);
            assert_true(ew_frame_decoder_memory(&d) <= 2 * (at + n) + 8192);
            if (f != NULL) {
                (*frames)++;
                assert_int_equal((uintptr_t)f->body.data % 16, 0);
                for (size_t i = 0; i < f->envelope.size; i++) {
                    sum = (sum ^ ((const unsigned char *)f->envelope.data)[i]) * 1099511628211ull;
                }
                for (size_t i = 0; i < f->body.size; i++) {
                    sum = (sum ^ ((const unsigned char *)f->body.data)[i]) * 1099511628211ull;
                }
                sum = (sum ^ f->wire_bytes) * 1099511628211ull;
                ew_frame_free(&f);
            }
        }
        at += n;
    }
    ew_frame_decoder_release(&d);
    return sum;
}

static void any_split_gives_the_same_frames(void **state)
{
    (void)state;
    ew_rng r;
    ew_rng_init(&r, 5, 0);
    for (int round = 0; round < 60; round++) {
        EW_AUTO_BUF in = {0};
        unsigned n = 1 + (unsigned)ew_rng_below(&r, 20);
        for (unsigned i = 0; i < n; i++) {
            size_t body = ew_rng_below(&r, 3) == 0 ? ew_rng_below(&r, 200000) : ew_rng_below(&r, 50);
            add_frame(&in, 1 + ew_rng_below(&r, 3000), body, (unsigned char)i);
        }
        if (round % 5 == 4) { /* garbage behind */
            ew_buf_add(&in, "\xff\xff\xff\xff\xff\xff\xff\xff\xff", 9);
        }
        unsigned whole;
        ew_status end;
        uint64_t want = digest(&in, NULL, EW_LIMIT_FRAME_BYTES, &whole, &end);
        assert_int_equal(whole, n);
        for (int k = 0; k < 10; k++) {
            unsigned got;
            ew_status st;
            assert_true(digest(&in, &r, EW_LIMIT_FRAME_BYTES, &got, &st) == want);
            assert_int_equal(got, whole);
            assert_int_equal(st, end);
        }
    }
}

static ew_status try_header(const unsigned char h[8], size_t max)
{
    ew_frame_decoder d;
    ew_frame *f = NULL;
    ew_frame_decoder_init(&d, max);
    ew_span s = {h, 8};
    ew_status st = ew_frame_decode(&d, &s, &f, NULL);
    if (st != EW_OK) { /* and it stays so */
        ew_span more = {"abc", 3};
        assert_int_equal(ew_frame_decode(&d, &more, &f, NULL), EW_ECORRUPT);
    }
    assert_null(f);
    ew_frame_decoder_release(&d);
    return st;
}

static void bad_headers_are_refused(void **state)
{
    (void)state;
    assert_int_equal(try_header((const unsigned char[]){0, 0, 0, 9, 1, 0, 0, 5}, 100), EW_OK);
    assert_int_equal(try_header((const unsigned char[]){0, 0, 0, 9, 2, 0, 0, 5}, 100), EW_ECORRUPT); /* version */
    assert_int_equal(try_header((const unsigned char[]){0, 0, 0, 9, 1, 0, 0, 0}, 100), EW_ECORRUPT); /* no envelope */
    assert_int_equal(try_header((const unsigned char[]){0, 0, 0, 9, 1, 0, 0, 10}, 100), EW_ECORRUPT);
    assert_int_equal(try_header((const unsigned char[]){0, 0, 0, 0, 1, 0, 0, 1}, 100), EW_ECORRUPT);
    assert_int_equal(try_header((const unsigned char[]){0, 0, 0, 101, 1, 0, 0, 5}, 100), EW_ELIMIT);
    assert_int_equal(try_header((const unsigned char[]){255, 255, 255, 255, 1, 0, 0, 5}, EW_LIMIT_FRAME_BYTES),
                     EW_ELIMIT);
    assert_int_equal(try_header((const unsigned char[]){0, 2, 0, 0, 1, 1, 0, 1}, EW_LIMIT_FRAME_BYTES), EW_ECORRUPT);
}

static void a_header_alone_costs_no_memory(void **state)
{
    (void)state;
    ew_frame_decoder d;
    ew_frame *f = NULL;
    unsigned char h[8];
    ew_frame_decoder_init(&d, EW_LIMIT_FRAME_BYTES);
    ew_frame_header(h, 100, 1000000);
    ew_span s = {h, 8};
    assert_int_equal(ew_frame_decode(&d, &s, &f, NULL), EW_OK);
    assert_int_equal(ew_frame_decoder_memory(&d), 0);
    ew_span one = {"x", 1};
    assert_int_equal(ew_frame_decode(&d, &one, &f, NULL), EW_OK);
    assert_true(ew_frame_decoder_memory(&d) <= 8192);
    ew_frame_decoder_release(&d);
}

static void failing_memory_is_an_error(void **state)
{
    (void)state;
    EW_AUTO_BUF in = {0};
    add_frame(&in, 10, 100000, 1);
    for (uint64_t n = 1;; n++) {
        unsigned frames;
        ew_status st;
        ew_rng r;
        ew_rng_init(&r, n, 0);
        ew_mem_fail_at(n);
        digest(&in, &r, EW_LIMIT_FRAME_BYTES, &frames, &st);
        ew_mem_fail_at(0);
        if (st == EW_OK) {
            assert_int_equal(frames, 1);
            break;
        }
        assert_int_equal(st, EW_ENOMEM);
        assert_true(n < 50);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_split_gives_the_same_frames),
        cmocka_unit_test(bad_headers_are_refused),
        cmocka_unit_test(a_header_alone_costs_no_memory),
        cmocka_unit_test(failing_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
