/* Packing and unpacking, the limits of what comes in, the walker, failing memory. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "samples.h"

#include "base/buf.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/rng.h"
#include "domain/msg.h"
#include "wire/wire.h"

static ew_msg a, b; /* large */

static ew_span body_for(ew_msg_type t)
{
    return t == EW_MSG_OFFLOAD_FORWARD || t == EW_MSG_OFFLOAD_OUTPUT ? sample_body() : (ew_span){NULL, 0};
}

static void pack(const ew_msg *m, ew_buf *out)
{
    ew_error err = EW_ERROR_INIT;
    ew_buf_clear(out);
    if (ew_wire_pack(m, out, &err) != EW_OK) {
        fail_msg("%s: %s", ew_msg_type_name(m->type), err.msg);
    }
}

static void every_message_survives_the_round_trip(void **state)
{
    (void)state;
    EW_AUTO_BUF one = {0};
    EW_AUTO_BUF two = {0};
    for (size_t i = 0; i < N_SAMPLES; i++) {
        ew_error err = EW_ERROR_INIT;
        sample_fill(&a, sample_types[i]);
        pack(&a, &one);
        if (ew_wire_unpack((ew_span){one.data, one.size}, body_for(a.type), &b, &err) != EW_OK) {
            fail_msg("%s: %s", ew_msg_type_name(a.type), err.msg);
        }
        assert_int_equal(b.type, a.type);
        assert_int_equal(b.msg_id, a.msg_id);
        assert_memory_equal(b.idem_key, a.idem_key, sizeof(a.idem_key));
        pack(&b, &two); /* the same bytes again: nothing was lost on the way */
        assert_int_equal(one.size, two.size);
        assert_memory_equal(one.data, two.data, one.size);
        ew_msg_release(&b);
    }
}

static void the_values_arrive(void **state)
{
    (void)state;
    EW_AUTO_BUF one = {0};
    ew_error err = EW_ERROR_INIT;
    sample_fill(&a, EW_MSG_TRIAL_RESULT);
    pack(&a, &one);
    assert_int_equal(ew_wire_unpack((ew_span){one.data, one.size}, (ew_span){NULL, 0}, &b, &err), EW_OK);
    assert_true(b.trial_result.has_spec);
    assert_string_equal(b.trial_result.spec.source, "benchmark:ab12:u-7");
    assert_true(b.trial_result.spec.settings.learning_rate == 1e-3);
    assert_int_equal(b.trial_result.spec.settings.targets, 0x7F);
    assert_int_equal(b.trial_result.spec.settings.rag_rank, EW_RAG_RANK_FUSED);
    assert_int_equal(b.trial_result.measures[0].n, 2);
    assert_true(ew_trial_result_mean(&b.trial_result, "test.accuracy") == 0.625);
    assert_int_equal(b.trial_result.spec.method, EW_METHOD_LORA_RAG);
    assert_true(b.trial_result.spec.seed == 0xFFFFFFFFFFFFFFFFull);
    ew_msg_release(&b);
}

static void truncated_and_changed_bytes_never_harm(void **state)
{
    (void)state;
    ew_rng r;
    ew_rng_init(&r, 7, 0);
    EW_AUTO_BUF one = {0};
    for (size_t i = 0; i < N_SAMPLES; i++) {
        sample_fill(&a, sample_types[i]);
        pack(&a, &one);
        for (size_t cut = 0; cut < one.size; cut++) {
            ew_error err = EW_ERROR_INIT;
            unsigned char *exact = malloc(cut + 1); /* so that a sanitizer sees one byte too many */
            memcpy(exact, one.data, cut);
            if (ew_wire_unpack((ew_span){exact, cut}, body_for(a.type), &b, &err) == EW_OK) {
                ew_msg_release(&b);
            }
            exact[cut] = 0;
            memcpy(exact, one.data, cut);
            if (cut > 0) {
                exact[ew_rng_below(&r, cut)] ^= (unsigned char)(1u << ew_rng_below(&r, 8));
            }
            if (ew_wire_unpack((ew_span){exact, cut}, body_for(a.type), &b, &err) == EW_OK) {
                ew_msg_release(&b);
            }
            free(exact);
        }
    }
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    EW_AUTO_BUF one = {0};
    for (size_t i = 0; i < N_SAMPLES; i++) {
        sample_fill(&a, sample_types[i]);
        pack(&a, &one);
        for (uint64_t n = 1;; n++) {
            ew_error err = EW_ERROR_INIT;
            ew_mem_fail_at(n);
            ew_status st = ew_wire_unpack((ew_span){one.data, one.size}, body_for(a.type), &b, &err);
            ew_mem_fail_at(0);
            if (st == EW_OK) {
                ew_msg_release(&b);
                break;
            }
            assert_true(n < 500);
        }
        for (uint64_t n = 1;; n++) {
            ew_error err = EW_ERROR_INIT;
            EW_AUTO_BUF out = {0};
            ew_mem_fail_at(n);
            ew_status st = ew_wire_pack(&a, &out, &err);
            ew_mem_fail_at(0);
            if (st == EW_OK) {
                break;
            }
            assert_int_equal(st, EW_ENOMEM);
            assert_true(n < 100);
        }
    }
}

/* ---- limits: the sender's check and the receiver's */

static ew_status unpack_hex(const unsigned char *p, size_t n)
{
    ew_error err = EW_ERROR_INIT;
    ew_status st = ew_wire_unpack((ew_span){p, n}, (ew_span){NULL, 0}, &b, &err);
    if (st == EW_OK) {
        ew_msg_release(&b);
    }
    return st;
}

static void field_number_0_is_refused(void **state)
{
    (void)state;
    const unsigned char zero[] = {0x00, 0x01};                   /* field 0, varint */
    const unsigned char after[] = {0x08, 0x01, 0x02, 0x01, 'x'}; /* msg_id, then field 0 with bytes */
    assert_int_equal(unpack_hex(zero, sizeof(zero)), EW_ECORRUPT);
    assert_int_equal(unpack_hex(after, sizeof(after)), EW_ECORRUPT);
}

static void empty_submessages_hit_the_cap(void **state)
{
    (void)state;
    /* F13: Hello with 20,000 empty versions, 2 bytes each, becomes 24 times as much heap and pointers. */
    enum {
        N = 20000
    };
    unsigned char *p = malloc(2 * N + 16);
    size_t n = 0;
    size_t len = 2 * N;
    p[n++] = 10 << 3 | 2;
    p[n++] = (unsigned char)(len | 0x80);
    p[n++] = (unsigned char)(len >> 7 | 0x80);
    p[n++] = (unsigned char)(len >> 14);
    for (size_t i = 0; i < N; i++) {
        p[n++] = 1 << 3 | 2;
        p[n++] = 0;
    }
    assert_int_equal(unpack_hex(p, n), EW_ELIMIT);
    free(p);
}

static void an_unknown_payload_is_unsupported_and_keeps_its_header(void **state)
{
    (void)state;
    const unsigned char p[] = {0x08, 0x05, 0xEA, 0x05, 0x00}; /* msg_id 5, field 93 */
    ew_error err = EW_ERROR_INIT;
    assert_int_equal(ew_wire_unpack((ew_span){p, sizeof(p)}, (ew_span){NULL, 0}, &b, &err), EW_EUNSUPPORTED);
    assert_int_equal(b.msg_id, 5);
}

static void unknown_fields_and_enum_values_are_harmless(void **state)
{
    (void)state;
    /* msg_id 1; GoAway{reason = 200, field 50 = "ab"} */
    const unsigned char p[] = {0x08, 0x01, 0x62, 0x08, 0x08, 0xC8, 0x01, 0x92, 0x03, 0x02, 'a', 'b'};
    ew_error err = EW_ERROR_INIT;
    assert_int_equal(ew_wire_unpack((ew_span){p, sizeof(p)}, (ew_span){NULL, 0}, &b, &err), EW_OK);
    assert_int_equal(b.go_away.reason, EW_GO_AWAY_UNSPECIFIED);
    ew_msg_release(&b);
}

static void text_that_is_no_utf8_is_refused_and_a_cut_end_dropped(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x80\x80\x80", "\xF4\x90\x80\x80", "\xC0\x80", "a\x80", "\xC3(",
        "\xED\xA0",     "\x7F"};
    static const char *const cut[] = {"ab\xC3", "ab\xE2\x82", "ab\xF0\x9F\x98"};
    ew_error err = EW_ERROR_INIT;
    for (size_t i = 0; i < EW_COUNT(bad) + EW_COUNT(cut); i++) {
        bool is_bad = i < EW_COUNT(bad);
        const char *text = is_bad ? bad[i] : cut[i - EW_COUNT(bad)];
        size_t n = strlen(text);
        unsigned char env[32] = {
            0x08, 0x01, 0x82, 0x05, (unsigned char)(n + 2), 0x0A, (unsigned char)n}; /* OpRequest */
        memcpy(env + 7, text, n);
        assert_int_equal(ew_wire_unpack((ew_span){env, 7 + n}, (ew_span){NULL, 0}, &b, &err),
                         is_bad ? EW_EINVAL : EW_OK);
        if (!is_bad) {
            assert_string_equal(b.op_request.verb, "ab");
            ew_msg_release(&b);
        }
    }
}

static void the_sender_checks_its_own_messages(void **state)
{
    (void)state;
    EW_AUTO_BUF out = {0};
    ew_error err = EW_ERROR_INIT;
    sample_fill(&a, EW_MSG_TRIAL_ASSIGN);
    strcpy(a.trial_assign.source, "somewhere else");
    assert_int_equal(ew_wire_pack(&a, &out, &err), EW_EINVAL);
    sample_fill(&a, EW_MSG_TRIAL_RESULT);
    a.trial_result.measures[0].values[0] = (double)NAN;
    assert_int_equal(ew_wire_pack(&a, &out, &err), EW_EINVAL);
    sample_fill(&a, EW_MSG_OP_REQUEST);
    memset(a.op_request.verb, 'x', sizeof(a.op_request.verb));
    assert_int_equal(ew_wire_pack(&a, &out, &err), EW_EINVAL);
    sample_fill(&a, EW_MSG_HELLO);
    a.hello.caps.n_rates = EW_CAPS_RATES_MAX + 1;
    assert_int_equal(ew_wire_pack(&a, &out, &err), EW_EINVAL);
    sample_fill(&a, EW_MSG_ENROL_REQUEST);
    static char big[5000];
    a.enrol_request.csr_der = (ew_span){big, sizeof(big)};
    assert_int_equal(ew_wire_pack(&a, &out, &err), EW_EINVAL);
    assert_int_equal(out.size, 0);
}

static void tensors_must_lie_in_the_body(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++) {
        EW_AUTO_BUF out = {0};
        ew_error err = EW_ERROR_INIT;
        unsigned char body[32] = {0};
        sample_fill(&a, EW_MSG_OFFLOAD_FORWARD);
        ew_wire_tensor *t = &a.offload_forward.act;
        switch (i) {
        case 0:
            t->length = 25;
            break;
        case 1:
            t->offset = 9; /* one byte past the end */
            break;
        case 2:
            t->offset = UINT64_MAX - 4;
            break;
        case 3:
            t->shape[0] = 0;
            break;
        case 4:
            t->shape[0] = t->shape[1] = t->shape[2] = t->shape[3] = UINT32_MAX;
            t->rank = 4;
            break;
        case 5:
            t->n_scales = 1ull << 62;
            break;
        case 6:
            t->dtype = EW_ACT_UNSPECIFIED;
            break;
        default:
            memset(body, 0xFF, 4); /* a NAN scale */
        }
        ew_status st = ew_wire_pack(&a, &out, &err);
        if (st == EW_OK) {
            st = ew_wire_unpack((ew_span){out.data, out.size}, (ew_span){body, sizeof(body)}, &b, &err);
        }
        assert_int_equal(st, EW_EINVAL);
    }
}

/* ---- walker */

static void the_walker_agrees_with_protobuf(void **state)
{
    (void)state;
    ew_rng r;
    ew_rng_init(&r, 11, 0);
    EW_AUTO_BUF one = {0};
    for (int round = 0; round < 20000; round++) {
        ew_error err = EW_ERROR_INIT;
        ew_wire_header h;
        sample_fill(&a, sample_types[ew_rng_below(&r, N_SAMPLES)]);
        a.msg_id = ew_rng_u64(&r) >> ew_rng_below(&r, 64);
        a.reply_to = ew_rng_u64(&r) >> ew_rng_below(&r, 64);
        a.deadline_ms = (uint32_t)ew_rng_u64(&r);
        a.stream_id = (uint32_t)(ew_rng_u64(&r) >> ew_rng_below(&r, 64));
        a.last = ew_rng_below(&r, 2) != 0;
        a.has_idem_key = ew_rng_below(&r, 2) != 0;
        if (round % 50 != 0 && a.type != EW_MSG_PING && a.type != EW_MSG_ERROR) {
            continue; /* mostly small ones: it is the envelope that matters */
        }
        pack(&a, &one);
        size_t flips = ew_rng_below(&r, 3);
        for (size_t i = 0; i < flips; i++) {
            one.data[ew_rng_below(&r, one.size)] ^= (char)(1u << ew_rng_below(&r, 8));
        }
        ew_span s = {one.data, one.size};
        ew_status walked = ew_wire_walk(s, &h, &err);
        ew_status st = ew_wire_unpack(s, body_for(a.type), &b, &err);
        if (walked != EW_OK) {
            assert_int_equal(st, EW_ECORRUPT);
            continue;
        }
        if (st == EW_OK) {
            assert_int_equal(h.msg_id, b.msg_id);
            assert_int_equal(h.reply_to, b.reply_to);
            assert_int_equal(h.deadline_ms, b.deadline_ms);
            assert_int_equal(h.stream_id, b.stream_id);
            assert_int_equal(h.payload, b.type);
            assert_int_equal(h.last, b.last);
            assert_int_equal(h.has_idem_key, b.has_idem_key);
            ew_msg_release(&b);
        }
    }
}

/* ---- opaque bodies */

static void a_manifest_survives_and_its_lies_are_found(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_manifest) m = NULL;
    EW_AUTO(ew_manifest) back = NULL;
    EW_AUTO_BUF out = {0};
    assert_int_equal(ew_manifest_new(10ull << 30, EW_MANIFEST_SEGMENT_BYTES, &m, &err), EW_OK);
    assert_int_equal(m->n_segments, 2560);
    strcpy(m->name, "big");
    sample_bytes(m->segment_sha256[2559], 32, 1);
    assert_int_equal(ew_wire_pack_manifest(m, &out, &err), EW_OK);
    assert_true(out.size < 90000); /* 87 KB for 10 GiB */
    assert_int_equal(ew_wire_unpack_manifest((ew_span){out.data, out.size}, &back, &err), EW_OK);
    assert_int_equal(back->size, m->size);
    assert_memory_equal(back->segment_sha256[2559], m->segment_sha256[2559], 32);
    ew_manifest_free(&back);
    m->size += 1; /* one more segment than there are hashes */
    m->size += EW_MANIFEST_SEGMENT_BYTES;
    ew_buf_clear(&out);
    assert_int_equal(ew_wire_pack_manifest(m, &out, &err), EW_OK);
    assert_int_equal(ew_wire_unpack_manifest((ew_span){out.data, out.size}, &back, &err), EW_EINVAL);
}

static void a_plan_survives(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_plan *p = ew_calloc(1, sizeof(*p));
    ew_plan *back = NULL;
    EW_AUTO_BUF out = {0};
    sample_bytes(p->id, 16, 4);
    strcpy(p->task, "debian-section");
    p->chosen.method = EW_METHOD_LORA;
    p->chosen.feasible = true;
    p->chosen.settings.rank = 4;
    assert_true(ew_choice_add_estimate(&p->chosen, "ram", "B", 1e8, 9e7, 1.1e8));
    assert_true(ew_choice_add_reason(&p->chosen, "G3", "B", "%d items are enough for LoRA", 50));
    p->chosen.reasons[0].n_trials = 1;
    sample_bytes(p->chosen.reasons[0].trials[0], 16, 9);
    p->n_runners_up = 1;
    p->runners_up[0].method = EW_METHOD_NONE;
    assert_int_equal(ew_wire_pack_plan(p, &out, &err), EW_OK);
    assert_int_equal(ew_wire_unpack_plan((ew_span){out.data, out.size}, &back, &err), EW_OK);
    assert_string_equal(back->chosen.reasons[0].text, "50 items are enough for LoRA");
    assert_memory_equal(back->chosen.reasons[0].trials[0], p->chosen.reasons[0].trials[0], 16);
    assert_int_equal(back->chosen.settings.rank, 4);
    assert_true(ew_choice_estimate(&back->chosen, "ram")->high == 1.1e8);
    assert_int_equal(back->n_runners_up, 1);
    ew_free(back);
    ew_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_message_survives_the_round_trip),
        cmocka_unit_test(the_values_arrive),
        cmocka_unit_test(truncated_and_changed_bytes_never_harm),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(field_number_0_is_refused),
        cmocka_unit_test(empty_submessages_hit_the_cap),
        cmocka_unit_test(an_unknown_payload_is_unsupported_and_keeps_its_header),
        cmocka_unit_test(unknown_fields_and_enum_values_are_harmless),
        cmocka_unit_test(text_that_is_no_utf8_is_refused_and_a_cut_end_dropped),
        cmocka_unit_test(the_sender_checks_its_own_messages),
        cmocka_unit_test(tensors_must_lie_in_the_body),
        cmocka_unit_test(the_walker_agrees_with_protobuf),
        cmocka_unit_test(a_manifest_survives_and_its_lies_are_found),
        cmocka_unit_test(a_plan_survives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
