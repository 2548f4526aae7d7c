/* One filled message of every type, for round trips, truncation and failing allocations. */
#ifndef EW_TEST_WIRE_SAMPLES_H
#define EW_TEST_WIRE_SAMPLES_H

#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "domain/msg.h"

static const ew_msg_type sample_types[] = {
    EW_MSG_HELLO,
    EW_MSG_HELLO_ACK,
    EW_MSG_GO_AWAY,
    EW_MSG_PING,
    EW_MSG_PONG,
    EW_MSG_CREDIT,
    EW_MSG_ERROR,
    EW_MSG_CANCEL,
    EW_MSG_ACK,
    EW_MSG_ENROL_REQUEST,
    EW_MSG_ENROL_RESPONSE,
    EW_MSG_RENEW_REQUEST,
    EW_MSG_RENEW_RESPONSE,
    EW_MSG_PLAN_REQUEST,
    EW_MSG_PLAN_RESPONSE,
    EW_MSG_MANIFEST_REQUEST,
    EW_MSG_MANIFEST,
    EW_MSG_ARTIFACT_OPEN,
    EW_MSG_ARTIFACT_CHUNK,
    EW_MSG_ARTIFACT_DONE,
    EW_MSG_TRIAL_ASSIGN,
    EW_MSG_TRIAL_ACCEPT,
    EW_MSG_TRIAL_PROGRESS,
    EW_MSG_TRIAL_RESULT,
    EW_MSG_OFFLOAD_OPEN,
    EW_MSG_OFFLOAD_OPENED,
    EW_MSG_OFFLOAD_FORWARD,
    EW_MSG_OFFLOAD_OUTPUT,
    EW_MSG_OFFLOAD_CLOSE,
    EW_MSG_OP_REQUEST,
    EW_MSG_OP_RESPONSE,
};
#define N_SAMPLES (sizeof(sample_types) / sizeof(sample_types[0]))

static EW_UNUSED void sample_bytes(uint8_t *p, size_t n, uint8_t first)
{
    for (size_t i = 0; i < n; i++) {
        p[i] = (uint8_t)(first + i);
    }
}

static EW_UNUSED void sample_caps(ew_device_caps *c)
{
    strcpy(c->arch, "x86_64");
    strcpy(c->device_class, "pi5-8g");
    c->cores = 4;
    c->ram_bytes = 8ull << 30;
    c->disk_bytes = 64ull << 30;
    c->n_isa = 2;
    strcpy(c->isa[0], "avx2");
    strcpy(c->isa[1], "f16c");
    c->n_accelerators = 1;
    strcpy(c->accelerators[0].kind, "gpu");
    c->n_dtypes = 1;
    strcpy(c->dtypes[0], "q4_0");
    c->n_features = 1;
    strcpy(c->features[0], "offload.fwd");
    c->n_rates = 1;
    strcpy(c->rates[0].name, "prefill");
    strcpy(c->rates[0].unit, "tok/s");
    c->rates[0].value = 123.5;
}

static EW_UNUSED void sample_spec(ew_trial_spec *s)
{
    sample_bytes(s->id, sizeof(s->id), 1);
    sample_bytes(s->experiment_id, sizeof(s->experiment_id), 50);
    strcpy(s->task, "debian-section");
    strcpy(s->source, "benchmark:ab12:u-7");
    sample_bytes(s->model_sha256, sizeof(s->model_sha256), 9);
    strcpy(s->variant, "q4_0");
    s->method = EW_METHOD_LORA_RAG;
    s->n_history = 50;
    s->seed = 0xFFFFFFFFFFFFFFFFull;
    s->settings.rank = 8;
    s->settings.alpha = 16;
    s->settings.learning_rate = 1e-3;
    s->settings.targets = 0x7F;
    s->settings.rag_rank = EW_RAG_RANK_FUSED;
    s->budget.ram_bytes = 1 << 28;
    s->budget.seconds = 60.5;
    s->repeats = 2;
}

static EW_UNUSED void sample_tensor(ew_wire_tensor *t)
{
    t->dtype = EW_ACT_F16;
    t->rank = 2;
    t->shape[0] = 3;
    t->shape[1] = 4;
    t->offset = 8;
    t->length = 24;
    t->scales_offset = 0;
    t->n_scales = 2;
}

/* The body that goes with offload messages: 32 bytes, two finite scales in front. */
static EW_UNUSED ew_span sample_body(void)
{
    static const unsigned char zeros[32];
    return (ew_span){zeros, sizeof(zeros)};
}

static EW_UNUSED void sample_certs(ew_der_list *l)
{
    static const char der[] = "not really a certificate, but bytes";
    l->n = 2;
    l->item[0] = (ew_span){der, sizeof(der)};
    l->item[1] = (ew_span){der, 7};
}

static EW_UNUSED void sample_session(ew_msg *m)
{
    switch (m->type) {
    case EW_MSG_HELLO:
        m->hello.n_versions = 1;
        m->hello.versions[0].major = 1;
        m->hello.versions[0].minor = 2;
        strcpy(m->hello.software, "agent 0.1.0");
        sample_bytes(m->hello.boot_id, 16, 3);
        m->hello.session_epoch = 77;
        m->hello.limits = (ew_wire_limits){1, 2, 3, 4, 5};
        m->hello.has_caps = m->hello.has_state = true;
        sample_caps(&m->hello.caps);
        m->hello.state.battery = -1;
        m->hello.state.consents = EW_CONSENT_OFFLOAD;
        break;
    case EW_MSG_HELLO_ACK:
        m->hello_ack.major = 1;
        m->hello_ack.keepalive_ms = 30000;
        sample_bytes(m->hello_ack.session_id, 16, 5);
        m->hello_ack.alternates.n = 1;
        strcpy(m->hello_ack.alternates.item[0], "host:7443");
        break;
    case EW_MSG_GO_AWAY:
        m->go_away.reason = EW_GO_AWAY_REVOKED;
        strcpy(m->go_away.detail, "müde");
        break;
    case EW_MSG_PING:
    case EW_MSG_PONG:
        m->ping.nonce = 1ull << 63;
        m->ping.bytes_consumed = 12;
        break;
    case EW_MSG_CREDIT:
        m->credit = (ew_msg_credit){7, 1ull << 40, 3};
        break;
    case EW_MSG_ERROR:
        m->error.code = EW_CODE_DATA_LOSS;
        strcpy(m->error.detail, "line one\nline two");
        m->error.retry_after_ms = 5;
        break;
    case EW_MSG_CANCEL:
        m->cancel_msg_id = 99;
        break;
    case EW_MSG_ACK:
        m->ack_seq = 12;
        break;
    default:
        break;
    }
}

static EW_UNUSED void sample_rest(ew_msg *m)
{
    switch (m->type) {
    case EW_MSG_ENROL_REQUEST:
        strcpy(m->enrol_request.token_id, "t-1");
        sample_bytes(m->enrol_request.proof, 32, 7);
        m->enrol_request.csr_der = (ew_span){"csr", 3};
        m->enrol_request.has_caps = true;
        sample_caps(&m->enrol_request.caps);
        break;
    case EW_MSG_ENROL_RESPONSE:
        strcpy(m->enrol_response.device_id, "dev-1");
        sample_certs(&m->enrol_response.chain);
        sample_certs(&m->enrol_response.trust_bundle);
        sample_bytes(m->enrol_response.artifact_key, 32, 1);
        break;
    case EW_MSG_RENEW_REQUEST:
        m->renew_request.csr_der = (ew_span){"csr", 3};
        break;
    case EW_MSG_RENEW_RESPONSE:
        sample_certs(&m->renew_response.chain);
        m->renew_response.renew_after_unix_ms = 5;
        break;
    case EW_MSG_PLAN_REQUEST:
        strcpy(m->plan_request.facts.task, "debian-section");
        m->plan_request.facts.n_measures = 1;
        strcpy(m->plan_request.facts.measures[0].name, "zero-shot");
        m->plan_request.facts.measures[0].n = 2;
        m->plan_request.facts.measures[0].values[1] = -0.5;
        strcpy(m->plan_request.objective, "score");
        break;
    case EW_MSG_PLAN_RESPONSE:
    case EW_MSG_MANIFEST:
        sample_bytes(m->manifest.signature, 64, 1);
        strcpy(m->manifest.key_id, "k1");
        break;
    case EW_MSG_MANIFEST_REQUEST:
        strcpy(m->manifest_request.name, "deb-tiny");
        strcpy(m->manifest_request.variant, "q8_0");
        break;
    case EW_MSG_ARTIFACT_OPEN:
        sample_bytes(m->artifact_open.sha256, 32, 1);
        m->artifact_open.offset = 1ull << 33;
        break;
    case EW_MSG_ARTIFACT_CHUNK:
        m->artifact_chunk.eof = true;
        break;
    case EW_MSG_ARTIFACT_DONE:
        sample_bytes(m->artifact_done.sha256, 32, 1);
        m->artifact_done.code = EW_CODE_OK;
        break;
    case EW_MSG_TRIAL_ASSIGN:
        sample_spec(&m->trial_assign);
        m->trial_assign.fence = 3;
        m->trial_assign.lease_ms = 60000;
        break;
    case EW_MSG_TRIAL_ACCEPT:
        sample_bytes(m->trial_accept.id, 16, 1);
        m->trial_accept.accepted = true;
        break;
    case EW_MSG_TRIAL_PROGRESS:
        sample_bytes(m->trial_progress.id, 16, 1);
        strcpy(m->trial_progress.phase, "tune");
        break;
    case EW_MSG_TRIAL_RESULT:
        sample_bytes(m->trial_result.id, 16, 1);
        m->trial_result.code = EW_ENOMEM;
        ew_trial_result_add(&m->trial_result, "test.accuracy", "1", 0.75);
        ew_trial_result_add(&m->trial_result, "test.accuracy", "1", 0.5);
        m->trial_result.has_spec = true;
        sample_spec(&m->trial_result.spec);
        break;
    case EW_MSG_OFFLOAD_OPEN:
        sample_bytes(m->offload_open.model_sha256, 32, 1);
        m->offload_open.last_layer = 4;
        m->offload_open.act_dtype = EW_ACT_F32;
        m->offload_open.reference = true;
        break;
    case EW_MSG_OFFLOAD_OPENED:
        m->offload_opened.kv_session = 9;
        m->offload_opened.lease_ms = 60000;
        break;
    case EW_MSG_OFFLOAD_FORWARD:
        sample_tensor(&m->offload_forward.act);
        m->offload_forward.n_tok = 3;
        break;
    case EW_MSG_OFFLOAD_OUTPUT:
        sample_tensor(&m->offload_output.out);
        m->offload_output.compute_us = 5;
        break;
    case EW_MSG_OFFLOAD_CLOSE:
        m->offload_close.keep_kv = true;
        break;
    case EW_MSG_OP_REQUEST:
        strcpy(m->op_request.verb, "device.list");
        m->op_request.if_version = 4;
        break;
    case EW_MSG_OP_RESPONSE:
        m->op_response.more = true;
        break;
    default:
        break;
    }
}

static EW_UNUSED void sample_fill(ew_msg *m, ew_msg_type type)
{
    memset(m, 0, sizeof(*m));
    m->type = type;
    m->msg_id = 1234567890123ull;
    m->reply_to = 3;
    m->deadline_ms = 500;
    m->stream_id = 7;
    m->last = true;
    m->has_idem_key = true;
    sample_bytes(m->idem_key, sizeof(m->idem_key), 0x80);
    sample_session(m);
    sample_rest(m);
}

#endif
