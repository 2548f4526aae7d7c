/* The mapping between the C structs of domain/ and the generated protobuf structs, as data: one row per field. Both
 * directions and all limits are read from these rows (convert.c), so that a field cannot be packed one way and checked another. */
#include "wire/wire_int.h"

#include "base/limits.h"
#include "domain/trial.h"

#define PB(M) Edgewise__V1__##M

/* Row makers. M: protobuf message, PF: its field; T: C struct, CF: its member. */
#define AT(M, PF, T, CF) .name = #PF, .pb = offsetof(PB(M), PF), .c = offsetof(T, CF), .flag = EW__NO_FLAG
#define U32(M, PF, T, CF)                                                                                              \
    {                                                                                                                  \
        AT(M, PF, T, CF), .kind = EW__U32                                                                              \
    }
#define U64(M, PF, T, CF)                                                                                              \
    {                                                                                                                  \
        AT(M, PF, T, CF), .kind = EW__U64                                                                              \
    }
#define BOOL(M, PF, T, CF)                                                                                             \
    {                                                                                                                  \
        AT(M, PF, T, CF), .kind = EW__BOOL                                                                             \
    }
#define F64(M, PF, T, CF)                                                                                              \
    {                                                                                                                  \
        AT(M, PF, T, CF), .kind = EW__F64                                                                              \
    }
#define F64_NAN(M, PF, T, CF)                                                                                          \
    {                                                                                                                  \
        AT(M, PF, T, CF), .kind = EW__F64_NAN                                                                          \
    }
#define ENUM(M, PF, T, CF, top)                                                                                        \
    {                                                                                                                  \
        AT(M, PF, T, CF), .kind = EW__ENUM, .max = (top)                                                               \
    }
#define STATUS(M, PF, T, CF)                                                                                           \
    {                                                                                                                  \
        AT(M, PF, T, CF), .kind = EW__STATUS                                                                           \
    }
#define STR(M, PF, T, CF)                                                                                              \
    {                                                                                                                  \
        AT(M, PF, T, CF), .kind = EW__STR, .size = sizeof(((T *)0)->CF)                                                \
    }
/* Exactly as long as the member. */
#define BYTES(M, PF, T, CF)                                                                                            \
    {                                                                                                                  \
        AT(M, PF, T, CF), .kind = EW__BYTES, .size = sizeof(((T *)0)->CF)                                              \
    }
/* May be absent: then zeros; zeros are not sent. */
#define BYTES_OR_ZERO(M, PF, T, CF)                                                                                    \
    {                                                                                                                  \
        AT(M, PF, T, CF), .kind = EW__BYTES_OPT, .size = sizeof(((T *)0)->CF)                                          \
    }
/* May be absent: a flag tells. */
#define BYTES_IF(M, PF, T, CF, has)                                                                                    \
    {                                                                                                                  \
        .name = #PF, .pb = offsetof(PB(M), PF), .c = offsetof(T, CF), .flag = offsetof(T, has), .kind = EW__BYTES_OPT, \
        .size = sizeof(((T *)0)->CF)                                                                                   \
    }
#define SPAN(M, PF, T, CF, most)                                                                                       \
    {                                                                                                                  \
        AT(M, PF, T, CF), .kind = EW__SPAN, .max = (most)                                                              \
    }
#define MSG(M, PF, T, CF, table)                                                                                       \
    {                                                                                                                  \
        AT(M, PF, T, CF), .kind = EW__MSG, .sub = &(table)                                                             \
    }
#define MSG_IF(M, PF, T, CF, has, table)                                                                               \
    {                                                                                                                  \
        .name = #PF, .pb = offsetof(PB(M), PF), .c = offsetof(T, CF), .flag = offsetof(T, has), .kind = EW__MSG,       \
        .sub = &(table)                                                                                                \
    }
/* Repeated: T has a uint32_t count n and an array CF. */
#define REP(M, PF, T, CF, count)                                                                                       \
    .name = #PF, .pb = offsetof(PB(M), PF), .pb_n = offsetof(PB(M), n_##PF), .c = offsetof(T, CF),                     \
    .c_n = offsetof(T, count), .flag = EW__NO_FLAG, .size = sizeof(((T *)0)->CF[0]), .max = EW_COUNT(((T *)0)->CF)
#define REP_STR(M, PF, T, CF, count)                                                                                   \
    {                                                                                                                  \
        REP(M, PF, T, CF, count), .kind = EW__REP_STR                                                                  \
    }
#define REP_BYTES(M, PF, T, CF, count)                                                                                 \
    {                                                                                                                  \
        REP(M, PF, T, CF, count), .kind = EW__REP_BYTES                                                                \
    }
#define REP_SPAN(M, PF, T, CF, count)                                                                                  \
    {                                                                                                                  \
        REP(M, PF, T, CF, count), .kind = EW__REP_SPAN                                                                 \
    }
#define REP_F64(M, PF, T, CF, count)                                                                                   \
    {                                                                                                                  \
        REP(M, PF, T, CF, count), .kind = EW__REP_F64                                                                  \
    }
#define REP_U32(M, PF, T, CF, count)                                                                                   \
    {                                                                                                                  \
        REP(M, PF, T, CF, count), .kind = EW__REP_U32                                                                  \
    }
#define REP_MSG(M, PF, T, CF, count, table)                                                                            \
    {                                                                                                                  \
        REP(M, PF, T, CF, count), .kind = EW__REP_MSG, .sub = &(table)                                                 \
    }
#define SETTINGS(M, PF, T, cc)                                                                                         \
    {                                                                                                                  \
        .name = #PF, .pb = offsetof(PB(M), PF), .pb_n = offsetof(PB(M), n_##PF), .c = offsetof(T, cc),                 \
        .flag = EW__NO_FLAG, .kind = EW__SETTINGS, .max = 64                                                           \
    }
#define TABLE(id, M, low, T, fields, checker)                                                                          \
    static const ew__table id = {#M, &edgewise__v1__##low##__descriptor, fields, EW_COUNT(fields), sizeof(T), checker}

typedef struct ew_version {
    uint32_t major, minor;
} ew_version;
_Static_assert(sizeof(((ew_msg_hello *)0)->versions[0]) == sizeof(ew_version), "versions are pairs");

/* clang-format off */
static const ew__field version_f[] = {U32(Version, major, ew_version, major), U32(Version, minor, ew_version, minor)};
TABLE(version, Version, version, ew_version, version_f, NULL);

static const ew__field accelerator_f[] = {
    STR(Accelerator, kind, ew_accelerator, kind), STR(Accelerator, model, ew_accelerator, model),
    U64(Accelerator, mem_bytes, ew_accelerator, mem_bytes), STR(Accelerator, driver, ew_accelerator, driver)};
TABLE(accelerator, Accelerator, accelerator, ew_accelerator, accelerator_f, NULL);

static const ew__field rate_f[] = {
    STR(Rate, name, ew_rate, name), STR(Rate, unit, ew_rate, unit), F64(Rate, value, ew_rate, value),
    F64(Rate, spread, ew_rate, spread), U64(Rate, measured_unix_ms, ew_rate, measured_unix_ms)};
TABLE(rate, Rate, rate, ew_rate, rate_f, NULL);

static const ew__field caps_f[] = {
    STR(Capabilities, arch, ew_device_caps, arch), REP_STR(Capabilities, isa, ew_device_caps, isa, n_isa),
    U32(Capabilities, cores, ew_device_caps, cores), U64(Capabilities, ram_bytes, ew_device_caps, ram_bytes),
    U64(Capabilities, disk_bytes, ew_device_caps, disk_bytes),
    REP_MSG(Capabilities, accelerators, ew_device_caps, accelerators, n_accelerators, accelerator),
    REP_STR(Capabilities, dtypes, ew_device_caps, dtypes, n_dtypes),
    REP_STR(Capabilities, features, ew_device_caps, features, n_features),
    REP_MSG(Capabilities, rates, ew_device_caps, rates, n_rates, rate),
    STR(Capabilities, device_class, ew_device_caps, device_class)};
const ew__table ew__caps_table = {"Capabilities", &edgewise__v1__capabilities__descriptor, caps_f, EW_COUNT(caps_f), sizeof(ew_device_caps), NULL};

static const ew__field state_f[] = {
    U64(DeviceState, ram_available_bytes, ew_device_state, ram_available_bytes),
    U64(DeviceState, disk_free_bytes, ew_device_state, disk_free_bytes),
    BOOL(DeviceState, on_mains, ew_device_state, on_mains), F64(DeviceState, battery, ew_device_state, battery),
    F64_NAN(DeviceState, temperature_c, ew_device_state, temperature_c),
    F64(DeviceState, link_rtt_ms, ew_device_state, link_rtt_ms), F64(DeviceState, link_mbps, ew_device_state, link_mbps),
    BOOL(DeviceState, metered, ew_device_state, metered),
    U64(DeviceState, memory_limit_bytes, ew_device_state, memory_limit_bytes),
    U32(DeviceState, consents, ew_device_state, consents)};
TABLE(state, DeviceState, device_state, ew_device_state, state_f, NULL);

static const ew__field limits_f[] = {
    U32(Limits, max_frame, ew_wire_limits, max_frame), U32(Limits, max_inflight, ew_wire_limits, max_inflight),
    U32(Limits, session_window, ew_wire_limits, session_window), U32(Limits, stream_window, ew_wire_limits, stream_window),
    U32(Limits, max_streams, ew_wire_limits, max_streams)};
TABLE(limits, Limits, limits, ew_wire_limits, limits_f, NULL);

static const ew__field hello_f[] = {
    REP_MSG(Hello, versions, ew_msg_hello, versions, n_versions, version), STR(Hello, software, ew_msg_hello, software),
    BYTES(Hello, boot_id, ew_msg_hello, boot_id), U64(Hello, session_epoch, ew_msg_hello, session_epoch),
    MSG_IF(Hello, caps, ew_msg_hello, caps, has_caps, ew__caps_table), MSG(Hello, limits, ew_msg_hello, limits, limits),
    MSG_IF(Hello, state, ew_msg_hello, state, has_state, state)};
TABLE(hello, Hello, hello, ew_msg_hello, hello_f, NULL);

static const ew__field hello_ack_f[] = {
    MSG(HelloAck, version, ew_msg_hello_ack, major, version), MSG(HelloAck, limits, ew_msg_hello_ack, limits, limits),
    U32(HelloAck, keepalive_ms, ew_msg_hello_ack, keepalive_ms),
    U64(HelloAck, server_time_unix_ms, ew_msg_hello_ack, server_time_unix_ms),
    BYTES(HelloAck, session_id, ew_msg_hello_ack, session_id),
    U64(HelloAck, cert_not_after_unix_ms, ew_msg_hello_ack, cert_not_after_unix_ms),
    REP_STR(HelloAck, alternate_endpoints, ew_msg_hello_ack, alternates.item, alternates.n)};
TABLE(hello_ack, HelloAck, hello_ack, ew_msg_hello_ack, hello_ack_f, NULL);

static const ew__field go_away_f[] = {
    ENUM(GoAway, reason, ew_msg_go_away, reason, EW_GO_AWAY_OVERLOAD), U64(GoAway, last_msg_id, ew_msg_go_away, last_msg_id),
    U32(GoAway, drain_ms, ew_msg_go_away, drain_ms), U32(GoAway, retry_after_ms, ew_msg_go_away, retry_after_ms),
    STR(GoAway, detail, ew_msg_go_away, detail), STR(GoAway, alternate_endpoint, ew_msg_go_away, alternate)};
TABLE(go_away, GoAway, go_away, ew_msg_go_away, go_away_f, NULL);

static const ew__field ping_f[] = {U64(Ping, nonce, ew_msg_ping, nonce), U64(Ping, bytes_consumed, ew_msg_ping, bytes_consumed)};
TABLE(ping, Ping, ping, ew_msg_ping, ping_f, NULL);
static const ew__field pong_f[] = {U64(Pong, nonce, ew_msg_ping, nonce), U64(Pong, bytes_consumed, ew_msg_ping, bytes_consumed)};
TABLE(pong, Pong, pong, ew_msg_ping, pong_f, NULL);

static const ew__field credit_f[] = {
    U32(Credit, stream_id, ew_msg_credit, stream_id), U64(Credit, limit, ew_msg_credit, limit),
    U64(Credit, bytes_consumed, ew_msg_credit, bytes_consumed)};
TABLE(credit, Credit, credit, ew_msg_credit, credit_f, NULL);

static const ew__field error_f[] = {
    ENUM(Error, code, ew_msg_error, code, EW_CODE_OK), STR(Error, detail, ew_msg_error, detail),
    BOOL(Error, retryable, ew_msg_error, retryable), U32(Error, retry_after_ms, ew_msg_error, retry_after_ms)};
TABLE(error, Error, error, ew_msg_error, error_f, NULL);

typedef struct one_u64 {
    uint64_t v;
} one_u64;
static const ew__field cancel_f[] = {U64(Cancel, msg_id, one_u64, v)};
TABLE(cancel, Cancel, cancel, one_u64, cancel_f, NULL);
static const ew__field ack_f[] = {U64(Ack, upto_seq, one_u64, v)};
TABLE(ack, Ack, ack, one_u64, ack_f, NULL);

static const ew__field enrol_request_f[] = {
    STR(EnrolRequest, token_id, ew_msg_enrol_request, token_id), BYTES(EnrolRequest, token_proof, ew_msg_enrol_request, proof),
    SPAN(EnrolRequest, csr_der, ew_msg_enrol_request, csr_der, 4096),
    STR(EnrolRequest, hardware_id, ew_msg_enrol_request, hardware_id),
    MSG_IF(EnrolRequest, caps, ew_msg_enrol_request, caps, has_caps, ew__caps_table)};
TABLE(enrol_request, EnrolRequest, enrol_request, ew_msg_enrol_request, enrol_request_f, NULL);

static const ew__field enrol_response_f[] = {
    STR(EnrolResponse, device_id, ew_msg_enrol_response, device_id),
    REP_SPAN(EnrolResponse, chain_der, ew_msg_enrol_response, chain.item, chain.n),
    REP_SPAN(EnrolResponse, trust_bundle_der, ew_msg_enrol_response, trust_bundle.item, trust_bundle.n),
    REP_STR(EnrolResponse, endpoints, ew_msg_enrol_response, endpoints.item, endpoints.n),
    U64(EnrolResponse, renew_after_unix_ms, ew_msg_enrol_response, renew_after_unix_ms),
    BYTES_OR_ZERO(EnrolResponse, artifact_key, ew_msg_enrol_response, artifact_key)};
TABLE(enrol_response, EnrolResponse, enrol_response, ew_msg_enrol_response, enrol_response_f, NULL);

static const ew__field renew_request_f[] = {SPAN(RenewRequest, csr_der, ew_msg_renew_request, csr_der, 4096)};
TABLE(renew_request, RenewRequest, renew_request, ew_msg_renew_request, renew_request_f, NULL);

static const ew__field renew_response_f[] = {
    REP_SPAN(RenewResponse, chain_der, ew_msg_renew_response, chain.item, chain.n),
    REP_SPAN(RenewResponse, trust_bundle_der, ew_msg_renew_response, trust_bundle.item, trust_bundle.n),
    U64(RenewResponse, renew_after_unix_ms, ew_msg_renew_response, renew_after_unix_ms)};
TABLE(renew_response, RenewResponse, renew_response, ew_msg_renew_response, renew_response_f, NULL);

static const ew__field budget_f[] = {
    U64(Budget, ram_bytes, ew_budget, ram_bytes), U64(Budget, disk_bytes, ew_budget, disk_bytes),
    F64(Budget, seconds, ew_budget, seconds), F64(Budget, joules, ew_budget, joules),
    BOOL(Budget, mains_only, ew_budget, mains_only)};
TABLE(budget, Budget, budget, ew_budget, budget_f, NULL);

static const ew__field measure_f[] = {
    STR(Measure, name, ew_measure, name), STR(Measure, unit, ew_measure, unit), REP_F64(Measure, values, ew_measure, values, n)};
TABLE(measure, Measure, measure, ew_measure, measure_f, NULL);

static const ew__field facts_f[] = {
    STR(TaskFacts, task, ew_task_facts, task), STR(TaskFacts, metric, ew_task_facts, metric),
    U32(TaskFacts, labels, ew_task_facts, n_labels), U32(TaskFacts, items, ew_task_facts, n_items),
    U32(TaskFacts, mean_item_tok, ew_task_facts, mean_item_tok), U32(TaskFacts, mean_answer_tok, ew_task_facts, mean_answer_tok),
    REP_MSG(TaskFacts, difficulty, ew_task_facts, measures, n_measures, measure)};
TABLE(facts, TaskFacts, task_facts, ew_task_facts, facts_f, NULL);

static const ew__field plan_request_f[] = {
    MSG(PlanRequest, task, ew_plan_request, facts, facts), MSG(PlanRequest, budget, ew_plan_request, budget, budget),
    STR(PlanRequest, objective, ew_plan_request, objective), MSG(PlanRequest, state, ew_plan_request, state, state),
    BYTES_IF(PlanRequest, current_plan, ew_plan_request, current_plan, has_current_plan)};
TABLE(plan_request, PlanRequest, plan_request, ew_plan_request, plan_request_f, NULL);

static const ew__field plan_response_f[] = {
    BYTES(PlanResponse, signature, ew_msg_signed, signature), STR(PlanResponse, key_id, ew_msg_signed, key_id)};
TABLE(plan_response, PlanResponse, plan_response, ew_msg_signed, plan_response_f, NULL);

static const ew__field manifest_request_f[] = {
    BYTES_IF(ManifestRequest, sha256, ew_msg_manifest_request, sha256, has_sha256),
    STR(ManifestRequest, name, ew_msg_manifest_request, name), STR(ManifestRequest, version, ew_msg_manifest_request, version),
    STR(ManifestRequest, variant, ew_msg_manifest_request, variant)};
TABLE(manifest_request, ManifestRequest, manifest_request, ew_msg_manifest_request, manifest_request_f, NULL);

static const ew__field manifest_response_f[] = {
    BYTES(ManifestResponse, signature, ew_msg_signed, signature), STR(ManifestResponse, key_id, ew_msg_signed, key_id)};
TABLE(manifest_response, ManifestResponse, manifest_response, ew_msg_signed, manifest_response_f, NULL);

static const ew__field artifact_open_f[] = {
    BYTES(ArtifactOpen, sha256, ew_msg_artifact_open, sha256), U64(ArtifactOpen, offset, ew_msg_artifact_open, offset),
    U64(ArtifactOpen, length, ew_msg_artifact_open, length), U64(ArtifactOpen, initial_credit, ew_msg_artifact_open, initial_credit)};
TABLE(artifact_open, ArtifactOpen, artifact_open, ew_msg_artifact_open, artifact_open_f, NULL);

static const ew__field artifact_chunk_f[] = {
    U64(ArtifactChunk, offset, ew_msg_artifact_chunk, offset), BOOL(ArtifactChunk, eof, ew_msg_artifact_chunk, eof)};
TABLE(artifact_chunk, ArtifactChunk, artifact_chunk, ew_msg_artifact_chunk, artifact_chunk_f, NULL);

static const ew__field artifact_done_f[] = {
    BYTES(ArtifactDone, sha256, ew_msg_artifact_done, sha256), ENUM(ArtifactDone, code, ew_msg_artifact_done, code, EW_CODE_OK),
    STR(ArtifactDone, detail, ew_msg_artifact_done, detail)};
TABLE(artifact_done, ArtifactDone, artifact_done, ew_msg_artifact_done, artifact_done_f, NULL);

static const ew__field spec_f[] = {
    BYTES(TrialSpec, trial_id, ew_trial_spec, id), BYTES_OR_ZERO(TrialSpec, experiment_id, ew_trial_spec, experiment_id),
    STR(TrialSpec, task, ew_trial_spec, task), STR(TrialSpec, source, ew_trial_spec, source),
    BYTES(TrialSpec, model_sha256, ew_trial_spec, model_sha256), STR(TrialSpec, variant, ew_trial_spec, variant),
    ENUM(TrialSpec, method, ew_trial_spec, method, EW_METHOD_COUNT - 1), U32(TrialSpec, n_history, ew_trial_spec, n_history),
    U64(TrialSpec, seed, ew_trial_spec, seed), SETTINGS(TrialSpec, settings, ew_trial_spec, settings),
    MSG(TrialSpec, budget, ew_trial_spec, budget, budget), BOOL(TrialSpec, force, ew_trial_spec, force),
    U32(TrialSpec, repeats, ew_trial_spec, repeats), U32(TrialSpec, warmup, ew_trial_spec, warmup)};
static ew_status check_spec(const void *c, ew_span body, ew_error *reterr)
{
    (void)body;
    return ew_trial_spec_check(c, reterr);
}
TABLE(spec, TrialSpec, trial_spec, ew_trial_spec, spec_f, check_spec);

/* lease_ms and fence are members of the C struct too. */
static const ew__field trial_assign_f[] = {
    MSG(TrialAssign, spec, ew_trial_spec, id, spec), U64(TrialAssign, lease_ms, ew_trial_spec, lease_ms),
    U64(TrialAssign, fence, ew_trial_spec, fence)};
_Static_assert(offsetof(ew_trial_spec, id) == 0, "the nested message covers the whole struct");
const ew__table ew__trial_assign_table = {"TrialAssign", &edgewise__v1__trial_assign__descriptor, trial_assign_f, EW_COUNT(trial_assign_f), sizeof(ew_trial_spec), NULL};

static const ew__field trial_accept_f[] = {
    BYTES(TrialAccept, trial_id, ew_msg_trial_accept, id), U64(TrialAccept, fence, ew_msg_trial_accept, fence),
    BOOL(TrialAccept, accepted, ew_msg_trial_accept, accepted), STR(TrialAccept, reason, ew_msg_trial_accept, reason)};
TABLE(trial_accept, TrialAccept, trial_accept, ew_msg_trial_accept, trial_accept_f, NULL);

static const ew__field trial_progress_f[] = {
    BYTES(TrialProgress, trial_id, ew_msg_trial_progress, id), U64(TrialProgress, fence, ew_msg_trial_progress, fence),
    U32(TrialProgress, done, ew_msg_trial_progress, done), U32(TrialProgress, total, ew_msg_trial_progress, total),
    STR(TrialProgress, phase, ew_msg_trial_progress, phase)};
TABLE(trial_progress, TrialProgress, trial_progress, ew_msg_trial_progress, trial_progress_f, NULL);

static const ew__field trial_result_f[] = {
    BYTES(TrialResult, trial_id, ew_trial_result, id), U64(TrialResult, fence, ew_trial_result, fence),
    STATUS(TrialResult, code, ew_trial_result, code), STR(TrialResult, detail, ew_trial_result, detail),
    REP_MSG(TrialResult, measures, ew_trial_result, measures, n_measures, measure),
    BYTES_OR_ZERO(TrialResult, env_hash, ew_trial_result, env_hash),
    MSG_IF(TrialResult, spec, ew_trial_result, spec, has_spec, spec)};
const ew__table ew__trial_result_table = {"TrialResult", &edgewise__v1__trial_result__descriptor, trial_result_f, EW_COUNT(trial_result_f), sizeof(ew_trial_result), NULL};

static const ew__field tensor_f[] = {
    ENUM(Tensor, dtype, ew_wire_tensor, dtype, EW_ACT_I8), REP_U32(Tensor, shape, ew_wire_tensor, shape, rank),
    U64(Tensor, offset, ew_wire_tensor, offset), U64(Tensor, length, ew_wire_tensor, length),
    U64(Tensor, scales_offset, ew_wire_tensor, scales_offset), U64(Tensor, n_scales, ew_wire_tensor, n_scales)};
TABLE(tensor, Tensor, tensor, ew_wire_tensor, tensor_f, ew__check_tensor);

static const ew__field offload_open_f[] = {
    BYTES(OffloadOpen, model_sha256, ew_msg_offload_open, model_sha256), BYTES_OR_ZERO(OffloadOpen, plan_id, ew_msg_offload_open, plan_id),
    U32(OffloadOpen, first_layer, ew_msg_offload_open, first_layer), U32(OffloadOpen, last_layer, ew_msg_offload_open, last_layer),
    ENUM(OffloadOpen, act_dtype, ew_msg_offload_open, act_dtype, EW_ACT_I8), U32(OffloadOpen, max_positions, ew_msg_offload_open, max_positions),
    U64(OffloadOpen, kv_session, ew_msg_offload_open, kv_session), BOOL(OffloadOpen, reference, ew_msg_offload_open, reference)};
TABLE(offload_open, OffloadOpen, offload_open, ew_msg_offload_open, offload_open_f, NULL);

static const ew__field offload_opened_f[] = {
    U64(OffloadOpened, kv_session, ew_msg_offload_opened, kv_session), U32(OffloadOpened, kv_position, ew_msg_offload_opened, kv_position),
    U64(OffloadOpened, kv_bytes, ew_msg_offload_opened, kv_bytes), U32(OffloadOpened, lease_ms, ew_msg_offload_opened, lease_ms)};
TABLE(offload_opened, OffloadOpened, offload_opened, ew_msg_offload_opened, offload_opened_f, NULL);

static const ew__field offload_forward_f[] = {
    U64(OffloadForward, kv_session, ew_msg_offload_forward, kv_session), U64(OffloadForward, step, ew_msg_offload_forward, step),
    U32(OffloadForward, position, ew_msg_offload_forward, position), U32(OffloadForward, n_tokens, ew_msg_offload_forward, n_tok),
    MSG(OffloadForward, act, ew_msg_offload_forward, act, tensor), U32(OffloadForward, part, ew_msg_offload_forward, part),
    U32(OffloadForward, parts, ew_msg_offload_forward, parts)};
TABLE(offload_forward, OffloadForward, offload_forward, ew_msg_offload_forward, offload_forward_f, NULL);

static const ew__field offload_output_f[] = {
    U64(OffloadOutput, kv_session, ew_msg_offload_output, kv_session), U64(OffloadOutput, step, ew_msg_offload_output, step),
    U32(OffloadOutput, position, ew_msg_offload_output, position), MSG(OffloadOutput, out, ew_msg_offload_output, out, tensor),
    U32(OffloadOutput, part, ew_msg_offload_output, part), U32(OffloadOutput, parts, ew_msg_offload_output, parts),
    U32(OffloadOutput, compute_us, ew_msg_offload_output, compute_us), U32(OffloadOutput, queue_us, ew_msg_offload_output, queue_us)};
TABLE(offload_output, OffloadOutput, offload_output, ew_msg_offload_output, offload_output_f, NULL);

static const ew__field offload_close_f[] = {
    U64(OffloadClose, kv_session, ew_msg_offload_close, kv_session), BOOL(OffloadClose, keep_kv, ew_msg_offload_close, keep_kv)};
TABLE(offload_close, OffloadClose, offload_close, ew_msg_offload_close, offload_close_f, NULL);

static const ew__field op_request_f[] = {
    STR(OpRequest, verb, ew_msg_op_request, verb), U64(OpRequest, if_version, ew_msg_op_request, if_version)};
TABLE(op_request, OpRequest, op_request, ew_msg_op_request, op_request_f, NULL);
static const ew__field op_response_f[] = {
    BOOL(OpResponse, more, ew_msg_op_response, more), U64(OpResponse, version, ew_msg_op_response, version)};
TABLE(op_response, OpResponse, op_response, ew_msg_op_response, op_response_f, NULL);

static const ew__field estimate_f[] = {
    STR(Estimate, name, ew_estimate, name), STR(Estimate, unit, ew_estimate, unit), F64(Estimate, mean, ew_estimate, mean),
    F64(Estimate, low, ew_estimate, low), F64(Estimate, high, ew_estimate, high)};
TABLE(estimate, Estimate, estimate, ew_estimate, estimate_f, NULL);

static const ew__field reason_f[] = {
    STR(Reason, rule, ew_reason, rule), STR(Reason, text, ew_reason, text), STR(Reason, evidence_class, ew_reason, evidence_class),
    REP_BYTES(Reason, trials, ew_reason, trials, n_trials)};
TABLE(reason, Reason, reason, ew_reason, reason_f, NULL);

static const ew__field placement_f[] = {
    U32(Placement, first_layer, ew_placement, first_layer), U32(Placement, last_layer, ew_placement, last_layer),
    ENUM(Placement, where, ew_placement, where, EW_WHERE_CLOUD), STR(Placement, weight_dtype, ew_placement, weight_dtype),
    STR(Placement, act_dtype, ew_placement, act_dtype)};
TABLE(placement, Placement, placement, ew_placement, placement_f, NULL);

static const ew__field choice_f[] = {
    BYTES_OR_ZERO(Choice, model_sha256, ew_choice, model_sha256), STR(Choice, variant, ew_choice, variant),
    ENUM(Choice, method, ew_choice, method, EW_METHOD_COUNT - 1), SETTINGS(Choice, settings, ew_choice, settings),
    REP_MSG(Choice, estimates, ew_choice, estimates, n_estimates, estimate), REP_MSG(Choice, reasons, ew_choice, reasons, n_reasons, reason),
    REP_MSG(Choice, placements, ew_choice, placements, n_placements, placement), STR(Choice, model_name, ew_choice, model_name),
    BOOL(Choice, feasible, ew_choice, feasible)};
TABLE(choice, Choice, choice, ew_choice, choice_f, NULL);

static const ew__field plan_f[] = {
    BYTES(Plan, plan_id, ew_plan, id), MSG(Plan, chosen, ew_plan, chosen, choice),
    REP_MSG(Plan, runners_up, ew_plan, runners_up, n_runners_up, choice), U64(Plan, made_unix_ms, ew_plan, made_unix_ms),
    U64(Plan, valid_until_unix_ms, ew_plan, valid_until_unix_ms), U64(Plan, evidence_version, ew_plan, evidence_version),
    STR(Plan, task, ew_plan, task), STR(Plan, device_id, ew_plan, device_id), MSG(Plan, budget, ew_plan, budget, budget)};
const ew__table ew__plan_table = {"Plan", &edgewise__v1__plan__descriptor, plan_f, EW_COUNT(plan_f), sizeof(ew_plan), NULL};

/* By payload field number. */
const ew__table *const ew__payload_tables[EW_MSG_MAX + 1] = {
    [EW_MSG_HELLO] = &hello, [EW_MSG_HELLO_ACK] = &hello_ack, [EW_MSG_GO_AWAY] = &go_away, [EW_MSG_PING] = &ping,
    [EW_MSG_PONG] = &pong, [EW_MSG_CREDIT] = &credit, [EW_MSG_ERROR] = &error, [EW_MSG_CANCEL] = &cancel, [EW_MSG_ACK] = &ack,
    [EW_MSG_ENROL_REQUEST] = &enrol_request, [EW_MSG_ENROL_RESPONSE] = &enrol_response,
    [EW_MSG_RENEW_REQUEST] = &renew_request, [EW_MSG_RENEW_RESPONSE] = &renew_response,
    [EW_MSG_PLAN_REQUEST] = &plan_request, [EW_MSG_PLAN_RESPONSE] = &plan_response,
    [EW_MSG_MANIFEST_REQUEST] = &manifest_request, [EW_MSG_MANIFEST] = &manifest_response,
    [EW_MSG_ARTIFACT_OPEN] = &artifact_open, [EW_MSG_ARTIFACT_CHUNK] = &artifact_chunk, [EW_MSG_ARTIFACT_DONE] = &artifact_done,
    [EW_MSG_TRIAL_ASSIGN] = &ew__trial_assign_table, [EW_MSG_TRIAL_ACCEPT] = &trial_accept,
    [EW_MSG_TRIAL_PROGRESS] = &trial_progress, [EW_MSG_TRIAL_RESULT] = &ew__trial_result_table,
    [EW_MSG_OFFLOAD_OPEN] = &offload_open, [EW_MSG_OFFLOAD_OPENED] = &offload_opened,
    [EW_MSG_OFFLOAD_FORWARD] = &offload_forward, [EW_MSG_OFFLOAD_OUTPUT] = &offload_output,
    [EW_MSG_OFFLOAD_CLOSE] = &offload_close, [EW_MSG_OP_REQUEST] = &op_request, [EW_MSG_OP_RESPONSE] = &op_response};
/* clang-format on */
