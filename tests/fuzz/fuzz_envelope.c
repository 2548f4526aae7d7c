/* The walker against protobuf, and unpacking under its cap: what is accepted must pack again into something that is accepted. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "domain/msg.h"
#include "wire/wire.h"

static ew_msg a, b;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t body[64];
    ew_wire_header h;
    ew_error err;
    ew_span env = {data, size};
    ew_span slice = {body, sizeof(body)};
    ew_status walked = ew_wire_walk(env, &h, &err);
    ew_status st = ew_wire_unpack(env, slice, &a, &err);
    if (walked != EW_OK && st == EW_OK) {
        abort();
    }
    if (st != EW_OK) {
        return 0;
    }
    if (h.msg_id != a.msg_id || h.reply_to != a.reply_to || h.payload != (uint32_t)a.type || h.last != a.last ||
        h.stream_id != a.stream_id || h.deadline_ms != a.deadline_ms) {
        abort();
    }
    EW_AUTO_BUF out = {0};
    if (ew_wire_pack(&a, &out, &err) == EW_OK) {
        if (ew_wire_unpack((ew_span){out.data, out.size}, slice, &b, &err) != EW_OK || a.type != b.type) {
            abort();
        }
        ew_msg_release(&b);
    }
    ew_msg_release(&a);
    return 0;
}
