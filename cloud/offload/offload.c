#include "offload/offload.h"

#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "model/session.h"
#include "split/activation.h"

#define MAX_SESSIONS_DEFAULT 256u
#define PER_DEVICE_DEFAULT 4u
#define PER_DEVICE_BYTES_DEFAULT (256 * EW_MIB)
#define TOTAL_BYTES_DEFAULT EW_GIB
#define LEASE_MS_DEFAULT 60000u

/* Locking: o->lock guards the table and every member but those marked step, which the one step in progress owns (busy). */
typedef struct slot {
    uint64_t id; /* 0 = free */
    char device[EW_DEVICE_ID_SIZE];
    ew_model *model;
    ew_session *s; /* step */
    float *x;      /* step: [n_batch, C] */
    ew_activation act;
    uint32_t first, last;
    uint32_t position;  /* step: rows in the cache */
    uint64_t next_step; /* step */
    ew_buf last_out;    /* step: the answer to step next_step - 1, for a retry */
    uint64_t bytes;
    uint64_t used_ms;
    bool busy;
    bool dropped; /* to be freed when it is no longer busy */
} slot;

struct ew_offload {
    ew_offload_opt opt;
    pthread_mutex_t lock;
    slot *slots; /* [max_sessions] */
    ew_offload_stats stats;
};

ew_status ew_offload_new(const ew_offload_opt *opt, ew_offload **ret_offload, ew_error *reterr)
{
    ew_offload *o = ew_calloc(1, sizeof(*o));
    if (o == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for offload");
    }
    o->opt = *opt;
    o->opt.max_sessions = opt->max_sessions != 0 ? opt->max_sessions : MAX_SESSIONS_DEFAULT;
    o->opt.per_device = opt->per_device != 0 ? opt->per_device : PER_DEVICE_DEFAULT;
    o->opt.per_device_bytes = opt->per_device_bytes != 0 ? opt->per_device_bytes : PER_DEVICE_BYTES_DEFAULT;
    o->opt.total_bytes = opt->total_bytes != 0 ? opt->total_bytes : TOTAL_BYTES_DEFAULT;
    o->opt.lease_ms = opt->lease_ms != 0 ? opt->lease_ms : LEASE_MS_DEFAULT;
    o->slots = ew_calloc(o->opt.max_sessions, sizeof(*o->slots));
    if (o->slots == NULL || pthread_mutex_init(&o->lock, NULL) != 0) {
        ew_free(o->slots);
        ew_free(o);
        return ew_fail(reterr, EW_ENOMEM, "out of memory for offload");
    }
    *ret_offload = o;
    return EW_OK;
}

static void release_slot(ew_offload *o, slot *k)
{
    if (k->id == 0) {
        return;
    }
    if (k->busy) {
        k->dropped = true;
        return;
    }
    o->stats.sessions--;
    o->stats.bytes -= k->bytes;
    ew_session_free(&k->s);
    ew_model_unref(&k->model);
    ew_free(k->x);
    ew_buf_release(&k->last_out);
    *k = (slot){0};
}

void ew_offload_free(ew_offload **po)
{
    if (po == NULL || *po == NULL) {
        return;
    }
    ew_offload *o = *po;
    for (uint32_t i = 0; i < o->opt.max_sessions; i++) {
        EW_ASSERT(!o->slots[i].busy);
        release_slot(o, &o->slots[i]);
    }
    (void)pthread_mutex_destroy(&o->lock);
    ew_free(o->slots);
    ew_free(o);
    *po = NULL;
}

static slot *find(ew_offload *o, uint64_t id)
{
    for (uint32_t i = 0; i < o->opt.max_sessions; i++) {
        if (o->slots[i].id == id && id != 0 && !o->slots[i].dropped) {
            return &o->slots[i];
        }
    }
    return NULL;
}

/* Frees the device's oldest sessions until one more of bytes fits its quota. */
static ew_status make_room(ew_offload *o, const char *device, uint64_t bytes, ew_error *reterr)
{
    if (bytes > o->opt.per_device_bytes) {
        return ew_fail(reterr, EW_ELIMIT,
                       "a cache of %llu MiB is over the device's quota of %llu MiB; ask for fewer positions",
                       (unsigned long long)(bytes >> 20), (unsigned long long)(o->opt.per_device_bytes >> 20));
    }
    for (;;) {
        uint64_t used = 0;
        uint32_t n = 0;
        slot *oldest = NULL;
        for (uint32_t i = 0; i < o->opt.max_sessions; i++) {
            slot *k = &o->slots[i];
            if (k->id != 0 && strcmp(k->device, device) == 0) {
                used += k->bytes;
                n++;
                if (!k->busy && (oldest == NULL || k->used_ms < oldest->used_ms)) {
                    oldest = k;
                }
            }
        }
        if (n < o->opt.per_device && used + bytes <= o->opt.per_device_bytes) {
            return EW_OK;
        }
        if (oldest == NULL) {
            return ew_fail(reterr, EW_EAGAIN, "all offload sessions of this device are busy");
        }
        release_slot(o, oldest);
    }
}

static void describe(const ew_offload *o, const slot *k, ew_msg_offload_opened *ret)
{
    *ret = (ew_msg_offload_opened){
        .kv_session = k->id, .kv_position = k->position, .kv_bytes = k->bytes, .lease_ms = o->opt.lease_ms};
}

static ew_status resume(ew_offload *o, const char *device, uint64_t id, ew_msg_offload_opened *ret, ew_error *reterr)
{
    slot *k = find(o, id);
    if (k == NULL) {
        return ew_fail(reterr, EW_ENOENT, "no such offload session: its lease has run out");
    }
    if (strcmp(k->device, device) != 0) {
        return ew_fail(reterr, EW_EDENIED, "this offload session belongs to another device");
    }
    k->used_ms = ew_mono_ms();
    describe(o, k, ret);
    return EW_OK;
}

/* What the session is to be like. */
static ew_status session_opt(const ew_offload *o, const ew_model *model, const ew_msg_offload_open *req,
                             ew_session_opt *ret_opt, ew_error *reterr)
{
    const ew_model_config *cfg = ew_model_config_of(model);
    if (req->first_layer >= req->last_layer || req->last_layer > cfg->L) {
        return ew_fail(reterr, EW_EINVAL, "layers [%u, %u) are not a part of a model with %u layers", req->first_layer,
                       req->last_layer, cfg->L);
    }
    if (req->act_dtype != EW_ACT_F32 && req->act_dtype != EW_ACT_F16) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "activations are taken in f32 and f16");
    }
    *ret_opt = (ew_session_opt){.n_ctx = req->max_positions,
                                .exec = o->opt.exec,
                                .first_layer = req->first_layer,
                                .last_layer = req->last_layer,
                                .memory_limit_bytes = o->opt.per_device_bytes};
    if (req->reference) {
        ret_opt->exec.kern = ew_kern_get("ref");
    }
    return EW_OK;
}

/* Makes the session itself; needs no lock. k->bytes is set: what was reserved for it. */
static ew_status fill(const char *device, ew_model *model, const ew_msg_offload_open *req, const ew_session_opt *opt,
                      slot *k, ew_error *reterr)
{
    do {
        ew_random_bytes(&k->id, sizeof(k->id));
    } while (k->id == 0);
    EW_TRY(ew_session_new(model, opt, &k->s, reterr));
    k->x = ew_calloc(ew_session_n_batch(k->s), ew_model_config_of(model)->C * sizeof(float));
    if (k->x == NULL) {
        ew_session_free(&k->s);
        return ew_fail(reterr, EW_ENOMEM, "out of memory for an offload session");
    }
    (void)ew_str_copy(k->device, sizeof(k->device), device);
    k->model = ew_model_ref(model);
    k->act = req->act_dtype == EW_ACT_F16 ? EW_ACTIVATION_F16 : EW_ACTIVATION_F32;
    k->first = req->first_layer;
    k->last = req->last_layer;
    k->used_ms = ew_mono_ms();
    k->last_out.max = EW_LIMIT_BODY_BYTES;
    return EW_OK;
}

/* Counts the bytes before they are taken: many devices at once stay within total_bytes. */
static ew_status reserve(ew_offload *o, const char *device, uint64_t bytes, ew_error *reterr)
{
    (void)pthread_mutex_lock(&o->lock);
    ew_status st = make_room(o, device, bytes, reterr);
    if (st == EW_OK && o->stats.bytes + bytes > o->opt.total_bytes) {
        st = ew_fail(reterr, EW_EAGAIN, "the coordinator's memory for offload is taken by other devices");
    }
    if (st == EW_OK) {
        o->stats.sessions++;
        o->stats.bytes += bytes;
    }
    (void)pthread_mutex_unlock(&o->lock);
    return st;
}

static ew_status put(ew_offload *o, slot *made, ew_msg_offload_opened *ret_opened, ew_error *reterr)
{
    ew_status st = EW_OK;
    slot *k = NULL;
    (void)pthread_mutex_lock(&o->lock);
    for (uint32_t i = 0; i < o->opt.max_sessions && k == NULL; i++) {
        k = o->slots[i].id == 0 ? &o->slots[i] : NULL;
    }
    if (k != NULL) {
        *k = *made;
        describe(o, k, ret_opened);
    } else {
        release_slot(o, made);
        st = ew_fail(reterr, EW_EAGAIN, "the coordinator has no room for another offload session");
    }
    (void)pthread_mutex_unlock(&o->lock);
    return st;
}

ew_status ew_offload_open(ew_offload *o, const char *device_id, ew_model *model, const ew_msg_offload_open *req,
                          ew_msg_offload_opened *ret_opened, ew_error *reterr)
{
    slot made = {0};
    ew_session_opt opt;
    ew_memory_plan plan;
    ew_status st;
    if (req->kv_session != 0) {
        (void)pthread_mutex_lock(&o->lock);
        st = resume(o, device_id, req->kv_session, ret_opened, reterr);
        (void)pthread_mutex_unlock(&o->lock);
        return st;
    }
    EW_TRY(session_opt(o, model, req, &opt, reterr));
    EW_TRY(ew_session_memory(model, &opt, &plan, reterr));
    made.bytes = plan.kv_bytes + plan.workspace_bytes;
    EW_TRY(reserve(o, device_id, made.bytes, reterr));
    st = fill(device_id, model, req, &opt, &made, reterr);
    if (st != EW_OK) {
        (void)pthread_mutex_lock(&o->lock);
        o->stats.sessions--;
        o->stats.bytes -= made.bytes;
        (void)pthread_mutex_unlock(&o->lock);
        return st;
    }
    return put(o, &made, ret_opened, reterr);
}

/* Claims the session for one step. */
static ew_status claim(ew_offload *o, const char *device, uint64_t id, slot **ret_slot, ew_error *reterr)
{
    ew_msg_offload_opened unused;
    ew_status st;
    (void)pthread_mutex_lock(&o->lock);
    st = resume(o, device, id, &unused, reterr);
    if (st == EW_OK) {
        *ret_slot = find(o, id);
        if ((*ret_slot)->busy) {
            st = ew_fail(reterr, EW_EAGAIN, "a step of this offload session is still being computed");
        } else {
            (*ret_slot)->busy = true;
        }
    }
    (void)pthread_mutex_unlock(&o->lock);
    return st;
}

static void unclaim(ew_offload *o, slot *k, uint32_t n_tok)
{
    (void)pthread_mutex_lock(&o->lock);
    k->busy = false;
    k->used_ms = ew_mono_ms();
    o->stats.steps++;
    o->stats.tok += n_tok;
    if (k->dropped) {
        release_slot(o, k);
    }
    (void)pthread_mutex_unlock(&o->lock);
}

static ew_status check_step(const slot *k, const ew_msg_offload_forward *req, ew_span body, ew_error *reterr)
{
    uint32_t C = ew_model_config_of(k->model)->C;
    if (req->step != k->next_step) {
        return ew_fail(reterr, EW_ECONFLICT, "step %llu came where step %llu was due", (unsigned long long)req->step,
                       (unsigned long long)k->next_step);
    }
    if (req->position > k->position) {
        return ew_fail(reterr, EW_ECONFLICT, "kv_position=%u", k->position);
    }
    if (req->n_tok == 0 || req->n_tok > ew_session_n_batch(k->s) ||
        req->n_tok > ew_session_n_ctx(k->s) - req->position) {
        return ew_fail(reterr, EW_EINVAL, "a step is 1 to %u tokens and stays within %u positions",
                       ew_session_n_batch(k->s), ew_session_n_ctx(k->s));
    }
    uint64_t bytes = (uint64_t)req->n_tok * C * ew_activation_bytes(k->act);
    bool right_type = req->act.dtype == (k->act == EW_ACTIVATION_F16 ? EW_ACT_F16 : EW_ACT_F32);
    if (!right_type || req->act.rank != 2 || req->act.shape[0] != req->n_tok || req->act.shape[1] != C ||
        req->act.length != bytes || req->act.offset > body.size || bytes > body.size - req->act.offset) {
        return ew_fail(reterr, EW_EINVAL,
                       "the activations should be [%u, %u] of the type that the session was opened with", req->n_tok,
                       C);
    }
    return EW_OK;
}

static ew_status compute(slot *k, const ew_msg_offload_forward *req, ew_span body, ew_error *reterr)
{
    size_t elems = (size_t)req->n_tok * ew_model_config_of(k->model)->C;
    EW_TRY(check_step(k, req, body, reterr));
    EW_TRY(ew_activation_decode(k->act, (const char *)body.data + req->act.offset, elems, k->x, reterr));
    EW_TRY(ew_session_run(k->s, k->first, k->last, k->x, req->n_tok, req->position, reterr));
    ew_buf_clear(&k->last_out);
    void *out = ew_buf_extend(&k->last_out, elems * ew_activation_bytes(k->act));
    if (out == NULL) {
        return ew_buf_check(&k->last_out, reterr);
    }
    ew_activation_encode(k->act, k->x, elems, out);
    k->position = req->position + req->n_tok;
    k->next_step++;
    return EW_OK;
}

ew_status ew_offload_forward(ew_offload *o, const char *device_id, const ew_msg_offload_forward *req, ew_span body,
                             ew_msg_offload_output *ret_output, ew_buf *ret_body, ew_error *reterr)
{
    slot *k = NULL;
    uint64_t begin = ew_mono_ns();
    EW_TRY(claim(o, device_id, req->kv_session, &k, reterr));
    uint64_t start = ew_mono_ns();
    bool repeated = k->next_step > 0 && req->step == k->next_step - 1 && k->last_out.size > 0 &&
                    k->position == req->position + req->n_tok;
    ew_status st = repeated ? EW_OK : compute(k, req, body, reterr);
    if (st == EW_OK) {
        uint32_t C = ew_model_config_of(k->model)->C;
        *ret_output = (ew_msg_offload_output){
            .kv_session = k->id,
            .step = req->step,
            .position = req->position,
            .out = {.dtype = k->act == EW_ACTIVATION_F16 ? EW_ACT_F16 : EW_ACT_F32,
                    .rank = 2,
                    .shape = {req->n_tok, C},
                    .length = k->last_out.size},
            .parts = 1,
            .compute_us = (uint32_t)((ew_mono_ns() - start) / 1000),
            .queue_us = (uint32_t)((start - begin) / 1000),
        };
        ew_buf_add(ret_body, k->last_out.data, k->last_out.size);
        st = ew_buf_check(ret_body, reterr);
    }
    unclaim(o, k, req->n_tok);
    return st;
}

void ew_offload_close(ew_offload *o, const char *device_id, const ew_msg_offload_close *req)
{
    (void)pthread_mutex_lock(&o->lock);
    slot *k = find(o, req->kv_session);
    if (k != NULL && !req->keep_kv && strcmp(k->device, device_id) == 0) {
        release_slot(o, k);
    }
    (void)pthread_mutex_unlock(&o->lock);
}

void ew_offload_sweep(ew_offload *o)
{
    uint64_t now = ew_mono_ms();
    (void)pthread_mutex_lock(&o->lock);
    for (uint32_t i = 0; i < o->opt.max_sessions; i++) {
        if (o->slots[i].id != 0 && now - o->slots[i].used_ms > o->opt.lease_ms) {
            release_slot(o, &o->slots[i]);
        }
    }
    (void)pthread_mutex_unlock(&o->lock);
}

void ew_offload_drop_device(ew_offload *o, const char *device_id)
{
    (void)pthread_mutex_lock(&o->lock);
    for (uint32_t i = 0; i < o->opt.max_sessions; i++) {
        if (o->slots[i].id != 0 && strcmp(o->slots[i].device, device_id) == 0) {
            release_slot(o, &o->slots[i]);
        }
    }
    (void)pthread_mutex_unlock(&o->lock);
}

void ew_offload_get_stats(ew_offload *o, ew_offload_stats *ret_stats)
{
    (void)pthread_mutex_lock(&o->lock);
    *ret_stats = o->stats;
    (void)pthread_mutex_unlock(&o->lock);
}
