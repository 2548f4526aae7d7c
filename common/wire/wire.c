/* Envelopes and opaque bodies: packing, unpacking under a memory cap, and the walker over the top level. */
#include "wire/wire.h"

#include <string.h>

#include "base/limits.h"
#include "base/mem.h"
#include "wire/wire_int.h"

/* ---- protobuf under a cap */

typedef struct cap {
    size_t left;
    bool hit; /* the cap, not the machine's memory, was the reason */
} cap;

static void *cap_alloc(void *data, size_t size)
{
    cap *c = data;
    if (size > c->left) {
        c->hit = true;
        return NULL;
    }
    c->left -= size;
    return ew_malloc(1, size);
}

static void cap_free(void *data, void *p)
{
    (void)data;
    ew_free(p);
}

static ProtobufCAllocator free_allocator = {cap_alloc, cap_free, NULL};

ew_status ew__pb_unpack(const ProtobufCMessageDescriptor *desc, ew_span bytes, ProtobufCMessage **ret, ew_error *reterr)
{
    if (bytes.size > EW_LIMIT_FRAME_BYTES) {
        return ew_fail(reterr, EW_ELIMIT, "message of %zu bytes, at most %u are allowed", bytes.size,
                       EW_LIMIT_FRAME_BYTES);
    }
    /* F13: 64 KiB of empty sub-messages would become 4 MB of heap. */
    cap c = {EW_MIN(bytes.size * 16 + 4096, (size_t)EW_LIMIT_UNPACK_BYTES), false};
    ProtobufCAllocator a = {cap_alloc, cap_free, &c};
    ProtobufCMessage *pb =
        protobuf_c_message_unpack(desc, &a, bytes.size, bytes.size > 0 ? bytes.data : (const uint8_t *)"");
    if (pb == NULL) {
        return c.hit ? ew_fail(reterr, EW_ELIMIT, "message of %zu bytes unpacks to more than it may", bytes.size)
                     : ew_fail(reterr, EW_ECORRUPT, "%zu bytes are not a valid %s", bytes.size, desc->short_name);
    }
    *ret = pb;
    return EW_OK;
}

void ew__pb_free(ProtobufCMessage *pb)
{
    if (pb != NULL) {
        protobuf_c_message_free_unpacked(pb, &free_allocator);
    }
}

ew_status ew__pb_pack(const ProtobufCMessage *pb, size_t max, ew_buf *out, ew_error *reterr)
{
    size_t n = protobuf_c_message_get_packed_size(pb);
    if (n > max) {
        return ew_fail(reterr, EW_ELIMIT, "message %s has %zu bytes packed, at most %zu are allowed",
                       pb->descriptor->short_name, n, max);
    }
    uint8_t *at = ew_buf_extend(out, n);
    if (at == NULL) {
        return ew_buf_check(out, reterr);
    }
    protobuf_c_message_pack(pb, at);
    return EW_OK;
}

/* ---- Envelope */

static ew_status pack_into(const ew_msg *msg, const ew_wire_header *h, ew__pool *pool, ew_buf *out, ew_error *reterr)
{
    Edgewise__V1__Envelope e;
    edgewise__v1__envelope__init(&e);
    e.msg_id = h->msg_id;
    e.reply_to = h->reply_to;
    e.deadline_ms = h->deadline_ms;
    e.attempt = h->attempt;
    e.stream_id = h->stream_id;
    e.last = h->last;
    uint8_t idem[EW_IDEM_BYTES];
    uint8_t trace[EW_UID_BYTES];
    if (h->has_idem_key) {
        memcpy(idem, h->idem_key, sizeof(idem));
        e.idem_key = (ProtobufCBinaryData){sizeof(idem), idem};
    }
    if (msg->has_trace_id) {
        memcpy(trace, msg->trace_id, sizeof(trace));
        e.trace_id = (ProtobufCBinaryData){sizeof(trace), trace};
    }
    if (msg->type != EW_MSG_NONE) {
        const ew__table *t = (unsigned)msg->type <= EW_MSG_MAX ? ew__payload_tables[msg->type] : NULL;
        if (t == NULL) {
            return ew_fail(reterr, EW_EINVAL, "there is no message of type %d", (int)msg->type);
        }
        ProtobufCMessage *pb;
        EW_TRY(ew__build(t, &msg->hello, pool, &pb, reterr));
        e.payload_case = (Edgewise__V1__Envelope__PayloadCase)msg->type;
        memcpy(&e.hello, &pb, sizeof(pb));
    }
    return ew__pb_pack(&e.base, EW_LIMIT_ENVELOPE_BYTES, out, reterr);
}

ew_status ew_wire_pack_as(const ew_msg *msg, const ew_wire_header *h, ew_buf *out, ew_error *reterr)
{
    ew__pool pool;
    pool.head = NULL;
    pool.used = pool.cap = 0;
    ew_status st = pack_into(msg, h, &pool, out, reterr);
    ew__pool_release(&pool);
    return st;
}

ew_status ew_wire_pack(const ew_msg *msg, ew_buf *out, ew_error *reterr)
{
    ew_wire_header h = {.msg_id = msg->msg_id,
                        .reply_to = msg->reply_to,
                        .deadline_ms = msg->deadline_ms,
                        .attempt = msg->attempt,
                        .stream_id = msg->stream_id,
                        .last = msg->last,
                        .has_idem_key = msg->has_idem_key};
    memcpy(h.idem_key, msg->idem_key, sizeof(h.idem_key));
    return ew_wire_pack_as(msg, &h, out, reterr);
}

static ew_status read_envelope(ew__reader *r, const Edgewise__V1__Envelope *e, ew_msg *m, ew_error *reterr)
{
    m->msg_id = e->msg_id;
    m->reply_to = e->reply_to;
    m->deadline_ms = e->deadline_ms;
    m->attempt = e->attempt;
    m->stream_id = e->stream_id;
    m->last = e->last != 0;
    if ((e->idem_key.len != 0 && e->idem_key.len != EW_IDEM_BYTES) ||
        (e->trace_id.len != 0 && e->trace_id.len != EW_UID_BYTES)) {
        return ew_fail(reterr, EW_EINVAL, "envelope: idem_key and trace_id have 16 bytes or none");
    }
    m->has_idem_key = e->idem_key.len != 0;
    m->has_trace_id = e->trace_id.len != 0;
    if (m->has_idem_key) {
        memcpy(m->idem_key, e->idem_key.data, EW_IDEM_BYTES);
    }
    if (m->has_trace_id) {
        memcpy(m->trace_id, e->trace_id.data, EW_UID_BYTES);
    }
    const ew__table *t = (unsigned)e->payload_case <= EW_MSG_MAX ? ew__payload_tables[e->payload_case] : NULL;
    if (t == NULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "envelope: a payload that is not known here");
    }
    m->type = (ew_msg_type)e->payload_case;
    const ProtobufCMessage *pb;
    memcpy(&pb, &e->hello, sizeof(pb));
    return ew__read(r, t, pb, &m->hello, reterr);
}

ew_status ew_wire_unpack(ew_span envelope, ew_span body, ew_msg *ret, ew_error *reterr)
{
    memset(ret, 0, sizeof(*ret));
    if (envelope.size == 0 || envelope.size > EW_LIMIT_ENVELOPE_BYTES) {
        return ew_fail(reterr, EW_ECORRUPT, "envelope of %zu bytes, 1..%u are allowed", envelope.size,
                       EW_LIMIT_ENVELOPE_BYTES);
    }
    ew_wire_header h; /* refuses field number 0, which protobuf-c takes for an unknown field (F13) */
    EW_TRY(ew_wire_walk(envelope, &h, reterr));
    ProtobufCMessage *pb = NULL;
    EW_TRY(ew__pb_unpack(&edgewise__v1__envelope__descriptor, envelope, &pb, reterr));
    /* A body always has an address here: NULL would mean "not known" to the checks. */
    ew__reader r = {.body = {body.data != NULL ? body.data : "", body.size}, .owned_cap = envelope.size};
    ew_status st = read_envelope(&r, (const Edgewise__V1__Envelope *)pb, ret, reterr);
    ew__pb_free(pb);
    if (st == EW_OK && h.payload != (uint32_t)ret->type) {
        /* Routed by the one, read as the other: no sender of ours does that. */
        st = ew_fail(reterr, EW_ECORRUPT, "envelope with two payloads, fields %u and %u", (unsigned)ret->type,
                     h.payload);
    }
    if (st != EW_OK) {
        ew_free(r.owned);
    } else {
        ret->owned = r.owned;
    }
    return st;
}

/* ---- walker */

typedef struct walker {
    const uint8_t *p, *end;
} walker;

static bool varint(walker *w, uint64_t *ret)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (w->p == w->end) {
            return false;
        }
        uint8_t b = *w->p++;
        v |= shift < 64 ? (uint64_t)(b & 0x7F) << shift : 0;
        if ((b & 0x80) == 0) {
            *ret = v;
            return true;
        }
    }
    return false;
}

/* One field. Integers give value, length-delimited ones give data; others are skipped. */
static bool field(walker *w, uint32_t *number, uint32_t *type, uint64_t *value, ew_span *data)
{
    uint64_t tag;
    if (!varint(w, &tag) || tag > UINT32_MAX || tag >> 3 == 0) {
        return false;
    }
    *number = (uint32_t)(tag >> 3);
    *type = (uint32_t)(tag & 7);
    size_t skip = 0;
    if (*type == 0) {
        return varint(w, value);
    }
    if (*type == 2) {
        uint64_t n;
        if (!varint(w, &n) || n > (size_t)(w->end - w->p)) {
            return false;
        }
        skip = (size_t)n;
    } else if (*type == 1 || *type == 5) {
        skip = *type == 1 ? 8 : 4;
        if (skip > (size_t)(w->end - w->p)) {
            return false;
        }
    } else {
        return false; /* groups are not in use */
    }
    *data = (ew_span){w->p, skip};
    w->p += skip;
    return true;
}

ew_status ew_wire_walk(ew_span envelope, ew_wire_header *ret, ew_error *reterr)
{
    static const uint8_t types[9] = {9, 0, 0, 0, 2, 0, 0, 2, 0}; /* wire type of fields 1..8 */
    ew_wire_header h = {0};
    walker w = {envelope.data, (const uint8_t *)envelope.data + envelope.size};
    while (w.p < w.end) {
        uint32_t number;
        uint32_t type;
        uint64_t v = 0;
        ew_span d = {NULL, 0};
        if (!field(&w, &number, &type, &v, &d)) {
            return ew_fail(reterr, EW_ECORRUPT, "envelope: not a protobuf message");
        }
        if (number <= 8 && type != types[number]) {
            return ew_fail(reterr, EW_ECORRUPT, "envelope: field %u has wire type %u", number, type);
        }
        bool payload = number >= 10 && number <= EW_MSG_MAX;
        if (payload && type != 2) {
            return ew_fail(reterr, EW_ECORRUPT, "envelope: payload %u has wire type %u", number, type);
        }
        h.payload = payload ? number : h.payload;
        switch (number) {
        case 1:
            h.msg_id = v;
            break;
        case 2:
            h.reply_to = v;
            break;
        case 3:
            h.deadline_ms = (uint32_t)v;
            break;
        case 4:
            if (d.size != 0 && d.size != EW_IDEM_BYTES) {
                return ew_fail(reterr, EW_ECORRUPT, "envelope: idem_key of %zu bytes", d.size);
            }
            h.has_idem_key = d.size != 0;
            if (d.size != 0) {
                memcpy(h.idem_key, d.data, d.size);
            }
            break;
        case 5:
            h.attempt = (uint32_t)v;
            break;
        case 6:
            h.stream_id = (uint32_t)v;
            break;
        case 8:
            h.last = v != 0;
            break;
        default:
            break;
        }
    }
    *ret = h;
    return EW_OK;
}
