/* Things that are stored or signed as bytes of their own: manifests, plans, trials, capabilities. */
#include <string.h>

#include "base/limits.h"
#include "base/mem.h"
#include "wire/wire.h"
#include "wire/wire_int.h"

static ew_status pack(const ew__table *t, const void *c, ew_buf *out, ew_error *reterr)
{
    ew__pool pool;
    pool.head = NULL;
    pool.used = pool.cap = 0;
    ProtobufCMessage *pb = NULL;
    ew_status st = ew__build(t, c, &pool, &pb, reterr);
    if (st == EW_OK) {
        st = ew__pb_pack(pb, EW_LIMIT_BODY_BYTES, out, reterr);
    }
    ew__pool_release(&pool);
    return st;
}

static ew_status unpack(const ew__table *t, ew_span bytes, void *c, ew_error *reterr)
{
    ProtobufCMessage *pb = NULL;
    EW_TRY(ew__pb_unpack(t->desc, bytes, &pb, reterr));
    ew__reader r = {.body = {"", 0}, .owned_cap = bytes.size};
    memset(c, 0, t->c_size);
    ew_status st = ew__read(&r, t, pb, c, reterr);
    EW_ASSERT(r.owned == NULL); /* none of these has a span */
    ew__pb_free(pb);
    return st;
}

ew_status ew_wire_pack_plan(const ew_plan *p, ew_buf *out, ew_error *reterr)
{
    return pack(&ew__plan_table, p, out, reterr);
}

ew_status ew_wire_unpack_plan(ew_span bytes, ew_plan **ret, ew_error *reterr)
{
    ew_plan *p = ew_calloc(1, sizeof(*p));
    if (p == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "plan: out of memory");
    }
    ew_status st = unpack(&ew__plan_table, bytes, p, reterr);
    if (st != EW_OK) {
        ew_free(p);
        return st;
    }
    *ret = p;
    return EW_OK;
}

ew_status ew_wire_pack_trial_spec(const ew_trial_spec *s, ew_buf *out, ew_error *reterr)
{
    return pack(&ew__trial_assign_table, s, out, reterr);
}

ew_status ew_wire_unpack_trial_spec(ew_span bytes, ew_trial_spec *ret, ew_error *reterr)
{
    ew_trial_spec s;
    EW_TRY(unpack(&ew__trial_assign_table, bytes, &s, reterr));
    *ret = s;
    return EW_OK;
}

ew_status ew_wire_pack_trial_result(const ew_trial_result *r, ew_buf *out, ew_error *reterr)
{
    return pack(&ew__trial_result_table, r, out, reterr);
}

ew_status ew_wire_unpack_trial_result(ew_span bytes, ew_trial_result *ret, ew_error *reterr)
{
    return unpack(&ew__trial_result_table, bytes, ret, reterr);
}

ew_status ew_wire_pack_caps(const ew_device_caps *c, ew_buf *out, ew_error *reterr)
{
    return pack(&ew__caps_table, c, out, reterr);
}

ew_status ew_wire_unpack_caps(ew_span bytes, ew_device_caps *ret, ew_error *reterr)
{
    return unpack(&ew__caps_table, bytes, ret, reterr);
}

/* ---- manifest: its list of hashes is as long as the file is, so it is not a row of the tables */

static char *text(const char *s)
{
    char *q;
    memcpy(&q, &s, sizeof(q));
    return q;
}

ew_status ew_wire_pack_manifest(const ew_manifest *m, ew_buf *out, ew_error *reterr)
{
    if (m->n_segments > EW_MANIFEST_SEGMENTS_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "manifest: %u segments, at most %u are allowed", m->n_segments,
                       EW_MANIFEST_SEGMENTS_MAX);
    }
    ProtobufCBinaryData *list = ew_calloc((size_t)m->n_segments + 1, sizeof(*list));
    if (list == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "manifest: out of memory");
    }
    Edgewise__V1__Manifest pb;
    edgewise__v1__manifest__init(&pb);
    uint8_t sha[EW_SHA256_BYTES];
    uint8_t base[EW_SHA256_BYTES];
    memcpy(sha, m->sha256, sizeof(sha));
    memcpy(base, m->base_sha256, sizeof(base));
    pb.size = m->size;
    pb.sha256 = (ProtobufCBinaryData){sizeof(sha), sha};
    pb.base_sha256 = (ProtobufCBinaryData){m->has_base ? sizeof(base) : 0, base};
    pb.name = text(m->name);
    pb.version = text(m->version);
    pb.media_type = text(m->media_type);
    pb.variant = text(m->variant);
    pb.segment_size = m->segment_size;
    pb.n_segment_sha256 = m->n_segments;
    pb.segment_sha256 = list;
    for (uint32_t i = 0; i < m->n_segments; i++) {
        list[i] = (ProtobufCBinaryData){EW_SHA256_BYTES, m->segment_sha256[i]};
    }
    ew_status st = ew__pb_pack(&pb.base, EW_LIMIT_BODY_BYTES, out, reterr);
    ew_free(list);
    return st;
}

static ew_status take_text(char *dst, size_t size, const char *src, const char *name, ew_error *reterr)
{
    size_t n = strlen(src);
    if (n >= size) {
        return ew_fail(reterr, EW_EINVAL, "manifest: %s has %zu bytes, at most %zu are allowed", name, n, size - 1);
    }
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)src[i] < 0x20 || src[i] == 0x7F) {
            return ew_fail(reterr, EW_EINVAL, "manifest: %s is not clean text", name);
        }
    }
    memcpy(dst, src, n + 1);
    return EW_OK;
}

static ew_status fill_manifest(const Edgewise__V1__Manifest *pb, ew_manifest *m, ew_error *reterr)
{
    if (pb->sha256.len != EW_SHA256_BYTES || (pb->base_sha256.len != 0 && pb->base_sha256.len != EW_SHA256_BYTES)) {
        return ew_fail(reterr, EW_EINVAL, "manifest: hashes have 32 bytes");
    }
    if (pb->n_segment_sha256 != m->n_segments) {
        return ew_fail(reterr, EW_EINVAL, "manifest: %zu segment hashes for %u segments", pb->n_segment_sha256,
                       m->n_segments);
    }
    memcpy(m->sha256, pb->sha256.data, EW_SHA256_BYTES);
    m->has_base = pb->base_sha256.len != 0;
    if (m->has_base) {
        memcpy(m->base_sha256, pb->base_sha256.data, EW_SHA256_BYTES);
    }
    for (uint32_t i = 0; i < m->n_segments; i++) {
        if (pb->segment_sha256[i].len != EW_SHA256_BYTES) {
            return ew_fail(reterr, EW_EINVAL, "manifest: hash of segment %u has %zu bytes", i,
                           pb->segment_sha256[i].len);
        }
        memcpy(m->segment_sha256[i], pb->segment_sha256[i].data, EW_SHA256_BYTES);
    }
    EW_TRY(take_text(m->name, sizeof(m->name), pb->name, "name", reterr));
    EW_TRY(take_text(m->version, sizeof(m->version), pb->version, "version", reterr));
    EW_TRY(take_text(m->media_type, sizeof(m->media_type), pb->media_type, "media_type", reterr));
    return take_text(m->variant, sizeof(m->variant), pb->variant, "variant", reterr);
}

ew_status ew_wire_unpack_manifest(ew_span bytes, ew_manifest **ret, ew_error *reterr)
{
    ProtobufCMessage *pb = NULL;
    EW_TRY(ew__pb_unpack(&edgewise__v1__manifest__descriptor, bytes, &pb, reterr));
    const Edgewise__V1__Manifest *from = (const Edgewise__V1__Manifest *)pb;
    EW_AUTO(ew_manifest) m = NULL;
    ew_status st = ew_manifest_new(from->size, from->segment_size, &m, reterr);
    if (st == EW_OK) {
        st = fill_manifest(from, m, reterr);
    }
    ew__pb_free(pb);
    if (st == EW_OK) {
        *ret = m;
        m = NULL;
    }
    return st;
}
