/* The coordinator's KV sessions: leases, quotas, owners, retries, wrong requests, threads. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "test.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "domain/msg.h"
#include "kern/kern.h"
#include "model/model.h"
#include "model/session.h"
#include "offload/offload.h"
#include "split/activation.h"
#include "split/split.h"
#include "task/item.h"
#include "token/vocab.h"

#include "toy.h"

#define DIM 64u
#define LEASE_MS 1000u

static ew_model *model;

static int open_model(void **state)
{
    static const toy_shape shape = {.C = DIM, .H = 4, .K = 2, .F = 96, .V = 384, .L = 5, .n_ctx = 128};
    ew_error err = EW_ERROR_INIT;
    (void)state;
    const char *path = ew_test_path("offload.gguf");
    assert_ok(toy_save(path, &shape, "F16", 1, &err), &err);
    assert_ok(ew_model_open(path, NULL, &model, &err), &err);
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    ew_model_unref(&model);
    ew_clock_fake(0, 0);
    return 0;
}

static ew_offload *offload_new(ew_offload_opt opt)
{
    ew_offload *o = NULL;
    ew_error err = EW_ERROR_INIT;
    opt.lease_ms = LEASE_MS;
    assert_ok(ew_offload_new(&opt, &o, &err), &err);
    return o;
}

static ew_msg_offload_open open_req(void)
{
    return (ew_msg_offload_open){
        .first_layer = 1, .last_layer = 4, .act_dtype = EW_ACT_F32, .max_positions = 64, .reference = true};
}

static uint64_t open_for(ew_offload *o, const char *device)
{
    ew_error err = EW_ERROR_INIT;
    ew_msg_offload_opened opened = {0};
    const ew_msg_offload_open req = open_req();
    assert_ok(ew_offload_open(o, device, model, &req, &opened, &err), &err);
    assert_true(opened.kv_session != 0 && opened.kv_position == 0 && opened.kv_bytes > 0);
    assert_int_equal(opened.lease_ms, LEASE_MS);
    return opened.kv_session;
}

static ew_msg_offload_forward step_req(uint64_t session, uint64_t step, uint32_t position, uint32_t n)
{
    return (ew_msg_offload_forward){
        .kv_session = session,
        .step = step,
        .position = position,
        .n_tok = n,
        .act = {.dtype = EW_ACT_F32, .rank = 2, .shape = {n, DIM}, .length = (uint64_t)n * DIM * sizeof(float)},
        .parts = 1};
}

static void fill(float *x, size_t n, uint64_t seed)
{
    ew_rng rng;
    ew_rng_init(&rng, seed, 0);
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)ew_rng_normal(&rng);
    }
}

static ew_status forward(ew_offload *o, const char *device, const ew_msg_offload_forward *req, ew_buf *out,
                         ew_error *err)
{
    enum {
        MAX = 64
    };
    float x[MAX * DIM];
    ew_msg_offload_output output = {0};
    fill(x, MAX * DIM, req->position);
    ew_buf_clear(out);
    ew_status st =
        ew_offload_forward(o, device, req, (ew_span){x, (size_t)req->n_tok * DIM * sizeof(float)}, &output, out, err);
    if (st == EW_OK) {
        assert_true(output.kv_session == req->kv_session && output.step == req->step);
        assert_int_equal(output.position, req->position);
        assert_true(output.out.length == out->size && out->size == (size_t)req->n_tok * DIM * sizeof(float));
    }
    return st;
}

static void a_step_is_what_a_local_session_computes(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_offload *o = offload_new((ew_offload_opt){0});
    uint64_t id = open_for(o, "alice");
    ew_session *s = NULL;
    EW_AUTO_BUF out = {0};
    float x[5 * DIM];
    (void)state;
    assert_ok(ew_session_new(model, &(ew_session_opt){.n_ctx = 64, .exec = {.kern = ew_kern_get("ref")}}, &s, &err),
              &err);
    for (uint32_t i = 0; i < 4; i++) {
        const ew_msg_offload_forward req = step_req(id, i, i * 5, 5);
        assert_ok(forward(o, "alice", &req, &out, &err), &err);
        fill(x, 5 * DIM, i * 5);
        assert_ok(ew_session_run(s, 1, 4, x, 5, i * 5, &err), &err);
        assert_memory_equal(x, out.data, sizeof(x));
    }
    ew_offload_stats stats;
    ew_offload_get_stats(o, &stats);
    assert_true(stats.sessions == 1 && stats.steps == 4 && stats.tok == 20 && stats.bytes > 0);
    ew_session_free(&s);
    ew_offload_free(&o);
    assert_null(o);
}

static void a_repeated_step_gives_the_same_bytes_and_moves_nothing(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_offload *o = offload_new((ew_offload_opt){0});
    uint64_t id = open_for(o, "alice");
    EW_AUTO_BUF first = {0};
    EW_AUTO_BUF again = {0};
    (void)state;
    const ew_msg_offload_forward a = step_req(id, 0, 0, 7);
    const ew_msg_offload_forward b = step_req(id, 1, 7, 1);
    assert_ok(forward(o, "alice", &a, &first, &err), &err);
    for (int i = 0; i < 3; i++) {
        assert_ok(forward(o, "alice", &a, &again, &err), &err);
        assert_int_equal(first.size, again.size);
        assert_memory_equal(first.data, again.data, first.size);
    }
    assert_ok(forward(o, "alice", &b, &first, &err), &err);
    /* An older step is not remembered. */
    assert_fails(EW_ECONFLICT, forward(o, "alice", &a, &again, &err), &err, "step 2");
    ew_offload_free(&o);
}

static void a_rewind_is_followed_and_a_gap_is_a_conflict(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_offload *o = offload_new((ew_offload_opt){0});
    uint64_t id = open_for(o, "alice");
    EW_AUTO_BUF out = {0};
    EW_AUTO_BUF before = {0};
    (void)state;
    ew_msg_offload_forward req = step_req(id, 0, 0, 10);
    assert_ok(forward(o, "alice", &req, &out, &err), &err);
    req = step_req(id, 1, 10, 4);
    assert_ok(forward(o, "alice", &req, &before, &err), &err);
    req = step_req(id, 2, 15, 1);
    assert_fails(EW_ECONFLICT, forward(o, "alice", &req, &out, &err), &err, "kv_position=14");
    req = step_req(id, 5, 14, 1);
    assert_fails(EW_ECONFLICT, forward(o, "alice", &req, &out, &err), &err, "step 2");
    /* Back to 10: the same rows again. */
    req = step_req(id, 2, 10, 4);
    assert_ok(forward(o, "alice", &req, &out, &err), &err);
    assert_memory_equal(before.data, out.data, out.size);
    const ew_msg_offload_open resume = {.kv_session = id};
    ew_msg_offload_opened opened = {0};
    assert_ok(ew_offload_open(o, "alice", model, &resume, &opened, &err), &err);
    assert_true(opened.kv_session == id && opened.kv_position == 14);
    ew_offload_free(&o);
}

static void wrong_requests_are_refused_and_leave_the_session_alone(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_offload *o = offload_new((ew_offload_opt){0});
    uint64_t id = open_for(o, "alice");
    EW_AUTO_BUF out = {0};
    float x[8 * DIM];
    ew_msg_offload_output output = {0};
    (void)state;
    const ew_msg_offload_forward good = step_req(id, 0, 0, 4);
    ew_msg_offload_forward bad[12];
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        bad[i] = good;
    }
    bad[0].n_tok = 0;
    bad[1].n_tok = 5;
    bad[2].act.rank = 1;
    bad[3].act.shape[1] = DIM + 1;
    bad[4].act.dtype = EW_ACT_F16;
    bad[5].act.length += 4;
    bad[6].act.offset = UINT64_MAX;
    bad[7].act.offset = 1;
    bad[8].n_tok = UINT32_MAX;
    bad[9].act.length = UINT64_MAX;
    bad[10] = step_req(id, 0, 0, 200); /* more than a batch */
    bad[11].act.shape[0] = 3;
    fill(x, 4 * DIM, 1);
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        if (ew_offload_forward(o, "alice", &bad[i], (ew_span){x, 4 * DIM * sizeof(float)}, &output, &out, &err) !=
            EW_EINVAL) {
            fail_msg("request %zu: %s", i, err.msg);
        }
    }
    assert_fails(EW_EINVAL, ew_offload_forward(o, "alice", &good, (ew_span){NULL, 0}, &output, &out, &err), &err, "");
    x[4 * DIM - 1] = 1.0F / 0.0F;
    assert_fails(EW_ECORRUPT,
                 ew_offload_forward(o, "alice", &good, (ew_span){x, 4 * DIM * sizeof(float)}, &output, &out, &err),
                 &err, "finite");
    assert_ok(forward(o, "alice", &good, &out, &err), &err);
    /* Past the end of the context. */
    ew_msg_offload_forward req = step_req(id, 1, 4, 60);
    assert_ok(forward(o, "alice", &req, &out, &err), &err);
    req = step_req(id, 2, 64, 1);
    assert_fails(EW_EINVAL, forward(o, "alice", &req, &out, &err), &err, "64 positions");
    req = step_req(id, 2, 63, 2);
    assert_fails(EW_EINVAL, forward(o, "alice", &req, &out, &err), &err, "64 positions");
    ew_offload_free(&o);
}

static void bad_openings_are_refused(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_offload *o = offload_new((ew_offload_opt){.per_device_bytes = 100 * 1024});
    ew_msg_offload_opened opened = {0};
    ew_offload_stats stats;
    (void)state;
    ew_msg_offload_open req = open_req();
    req.last_layer = 9;
    assert_fails(EW_EINVAL, ew_offload_open(o, "a", model, &req, &opened, &err), &err, "5 layers");
    req.last_layer = 1;
    assert_fails(EW_EINVAL, ew_offload_open(o, "a", model, &req, &opened, &err), &err, "[1, 1)");
    req = open_req();
    req.act_dtype = (ew_act_dtype)77;
    assert_fails(EW_EUNSUPPORTED, ew_offload_open(o, "a", model, &req, &opened, &err), &err, "f16");
    req = open_req();
    req.max_positions = 100000;
    assert_fails(EW_ELIMIT, ew_offload_open(o, "a", model, &req, &opened, &err), &err, "");
    req.max_positions = UINT32_MAX;
    assert_int_not_equal(ew_offload_open(o, "a", model, &req, &opened, &err), EW_OK);
    req.kv_session = 12345;
    assert_fails(EW_ENOENT, ew_offload_open(o, "a", model, &req, &opened, &err), &err, "lease");
    ew_offload_get_stats(o, &stats);
    assert_true(stats.sessions == 0 && stats.bytes == 0);
    ew_offload_free(&o);
}

static void another_device_is_denied(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_offload *o = offload_new((ew_offload_opt){0});
    uint64_t id = open_for(o, "alice");
    EW_AUTO_BUF out = {0};
    ew_msg_offload_opened opened = {0};
    ew_offload_stats stats;
    (void)state;
    const ew_msg_offload_forward req = step_req(id, 0, 0, 2);
    const ew_msg_offload_open resume = {.kv_session = id};
    assert_fails(EW_EDENIED, forward(o, "mallory", &req, &out, &err), &err, "another device");
    assert_fails(EW_EDENIED, ew_offload_open(o, "mallory", model, &resume, &opened, &err), &err, "another device");
    ew_offload_close(o, "mallory", &(ew_msg_offload_close){.kv_session = id});
    ew_offload_drop_device(o, "mallory");
    ew_offload_get_stats(o, &stats);
    assert_int_equal(stats.sessions, 1);
    assert_ok(forward(o, "alice", &req, &out, &err), &err);
    ew_offload_drop_device(o, "alice");
    assert_fails(EW_ENOENT, forward(o, "alice", &req, &out, &err), &err, "lease");
    ew_offload_free(&o);
}

static void a_lease_ends_without_steps_and_is_prolonged_by_them(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF out = {0};
    ew_offload_stats stats;
    uint64_t ms = 1000000;
    (void)state;
    ew_clock_fake(ms * 1000000, ms);
    ew_offload *o = offload_new((ew_offload_opt){0});
    uint64_t id = open_for(o, "alice");
    for (uint32_t i = 0; i < 3; i++) {
        ms += LEASE_MS - 1;
        ew_clock_fake(ms * 1000000, ms);
        ew_offload_sweep(o);
        const ew_msg_offload_forward req = step_req(id, i, i, 1);
        assert_ok(forward(o, "alice", &req, &out, &err), &err);
    }
    ms += LEASE_MS + 1;
    ew_clock_fake(ms * 1000000, ms);
    ew_offload_sweep(o);
    ew_offload_get_stats(o, &stats);
    assert_true(stats.sessions == 0 && stats.bytes == 0);
    const ew_msg_offload_forward late = step_req(id, 3, 3, 1);
    assert_fails(EW_ENOENT, forward(o, "alice", &late, &out, &err), &err, "lease has run out");
    ew_clock_fake(0, 0);
    ew_offload_free(&o);
}

static void closing_frees_unless_the_cache_is_to_be_kept(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_offload *o = offload_new((ew_offload_opt){0});
    uint64_t id = open_for(o, "alice");
    EW_AUTO_BUF out = {0};
    (void)state;
    const ew_msg_offload_forward req = step_req(id, 0, 0, 2);
    ew_offload_close(o, "alice", &(ew_msg_offload_close){.kv_session = id, .keep_kv = true});
    assert_ok(forward(o, "alice", &req, &out, &err), &err);
    ew_offload_close(o, "alice", &(ew_msg_offload_close){.kv_session = id});
    ew_offload_close(o, "alice", &(ew_msg_offload_close){.kv_session = id});
    assert_fails(EW_ENOENT, forward(o, "alice", &req, &out, &err), &err, "");
    ew_offload_free(&o);
}

static void quotas_take_the_oldest_of_the_same_device(void **state)
{
    ew_error err = EW_ERROR_INIT;
    uint64_t ms = 5000;
    EW_AUTO_BUF out = {0};
    uint64_t ids[3];
    ew_msg_offload_opened opened = {0};
    const ew_msg_offload_open req = open_req();
    (void)state;
    ew_clock_fake(ms * 1000000, ms);
    ew_offload *o = offload_new((ew_offload_opt){.per_device = 2, .max_sessions = 4});
    uint64_t other = open_for(o, "bob");
    for (int i = 0; i < 3; i++) {
        ms += 10;
        ew_clock_fake(ms * 1000000, ms);
        ids[i] = open_for(o, "alice");
    }
    ew_msg_offload_forward f = step_req(ids[0], 0, 0, 1);
    assert_fails(EW_ENOENT, forward(o, "alice", &f, &out, &err), &err, "");
    f = step_req(ids[1], 0, 0, 1);
    assert_ok(forward(o, "alice", &f, &out, &err), &err);
    f = step_req(other, 0, 0, 1);
    assert_ok(forward(o, "bob", &f, &out, &err), &err);
    /* The table is full for a third device. */
    (void)open_for(o, "carol");
    assert_fails(EW_EAGAIN, ew_offload_open(o, "dave", model, &req, &opened, &err), &err, "no room");
    ew_offload_stats stats;
    ew_offload_get_stats(o, &stats);
    assert_int_equal(stats.sessions, 4);
    ew_clock_fake(0, 0);
    ew_offload_free(&o);
}

/* ---- threads ---- */

typedef struct worker {
    ew_offload *o;
    unsigned i;
    atomic_uint *ok;
} worker;

static void *work(void *ctx)
{
    worker *w = ctx;
    char device[16];
    EW_AUTO_BUF out = {0};
    ew_error err = EW_ERROR_INIT;
    (void)snprintf(device, sizeof(device), "d%u", w->i % 3);
    for (int round = 0; round < 20; round++) {
        ew_msg_offload_opened opened = {0};
        const ew_msg_offload_open req = open_req();
        if (ew_offload_open(w->o, device, model, &req, &opened, &err) != EW_OK) {
            continue;
        }
        for (uint32_t i = 0; i < 4; i++) {
            const ew_msg_offload_forward f = step_req(opened.kv_session, i, i * 2, 2);
            float x[2 * DIM];
            ew_msg_offload_output output = {0};
            fill(x, 2 * DIM, i);
            ew_buf_clear(&out);
            /* May be gone: another thread of the same device takes the quota, or drops the device. */
            ew_status st = ew_offload_forward(w->o, device, &f, (ew_span){x, sizeof(x)}, &output, &out, &err);
            if (st == EW_OK) {
                atomic_fetch_add(w->ok, 1);
            }
        }
        if (round % 5 == 4) {
            ew_offload_drop_device(w->o, device);
        }
        ew_offload_sweep(w->o);
        ew_offload_close(w->o, device, &(ew_msg_offload_close){.kv_session = opened.kv_session});
    }
    return NULL;
}

static void threads_may_open_step_drop_and_sweep_at_once(void **state)
{
    pthread_t t[6];
    worker w[6];
    atomic_uint ok = 0;
    ew_offload_stats stats;
    (void)state;
    ew_offload *o = offload_new((ew_offload_opt){.per_device = 2, .max_sessions = 5});
    for (unsigned i = 0; i < 6; i++) {
        w[i] = (worker){o, i, &ok};
        assert_int_equal(pthread_create(&t[i], NULL, work, &w[i]), 0);
    }
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(pthread_join(t[i], NULL), 0);
    }
    ew_offload_get_stats(o, &stats);
    assert_true(atomic_load(&ok) > 50 && stats.sessions == 0 && stats.bytes == 0);
    ew_offload_free(&o);
}

/* ---- both ends ---- */

typedef struct link {
    ew_offload *o;
    uint64_t id;
} link;

static ew_status link_forward(void *ctx, uint64_t step, uint32_t position, uint32_t n, const void *act, size_t bytes,
                              void *ret_act, ew_error *reterr)
{
    link *l = ctx;
    EW_AUTO_BUF out = {0};
    ew_msg_offload_output output = {0};
    const ew_msg_offload_forward req = step_req(l->id, step, position, n);
    EW_TRY(ew_offload_forward(l->o, "alice", &req, (ew_span){act, bytes}, &output, &out, reterr));
    memcpy(ret_act, out.data, bytes);
    return EW_OK;
}

static void a_split_session_over_it_equals_a_local_one_and_survives_its_end(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_session *s = NULL;
    ew_session *local = NULL;
    ew_split_session *p = NULL;
    float a[384];
    float b[384];
    (void)state;
    const ew_session_opt so = {.n_ctx = 64, .exec = {.kern = ew_kern_get("ref")}};
    ew_offload *o = offload_new((ew_offload_opt){0});
    link l = {o, open_for(o, "alice")};
    assert_ok(ew_session_new(model, &so, &s, &err), &err);
    assert_ok(ew_session_new(model, &so, &local, &err), &err);
    const ew_split_opt opt = {.first_layer = 1, .last_layer = 4, .forward = link_forward, .ctx = &l};
    assert_ok(ew_split_session_new(s, &opt, &p, &err), &err);
    for (int32_t i = 0; i < 30; i++) {
        int32_t id = 1 + (i * 31) % 380;
        if (i == 9) {
            ew_session_rewind(s, 5);
            ew_session_rewind(local, 5);
        }
        if (i == 20) {
            ew_offload_drop_device(o, "alice");
        }
        assert_ok(ew_session_eval(s, &id, 1, a, &err), &err);
        assert_ok(ew_session_eval(local, &id, 1, b, &err), &err);
        assert_memory_equal(a, b, sizeof(a));
    }
    ew_split_stats stats;
    ew_split_session_get_stats(p, &stats);
    assert_true(stats.local && stats.trips == 20);
    ew_split_session_free(&p);
    ew_session_free(&s);
    ew_session_free(&local);
    ew_offload_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_what_a_local_session_computes),
        cmocka_unit_test(a_repeated_step_gives_the_same_bytes_and_moves_nothing),
        cmocka_unit_test(a_rewind_is_followed_and_a_gap_is_a_conflict),
        cmocka_unit_test(wrong_requests_are_refused_and_leave_the_session_alone),
        cmocka_unit_test(bad_openings_are_refused),
        cmocka_unit_test(another_device_is_denied),
        cmocka_unit_test(a_lease_ends_without_steps_and_is_prolonged_by_them),
        cmocka_unit_test(closing_frees_unless_the_cache_is_to_be_kept),
        cmocka_unit_test(quotas_take_the_oldest_of_the_same_device),
        cmocka_unit_test(threads_may_open_step_drop_and_sweep_at_once),
        cmocka_unit_test(a_split_session_over_it_equals_a_local_one_and_survives_its_end),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
