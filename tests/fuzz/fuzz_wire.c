/* The opaque bodies: manifest, plan, trial specification and result, capabilities. The first byte chooses. */
#include <stdint.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/mem.h"
#include "domain/manifest.h"
#include "wire/wire.h"

static ew_trial_result result;
static ew_trial_spec spec;
static ew_device_caps caps;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    ew_error err;
    ew_span s = {data + 1, size - 1};
    ew_manifest *m = NULL;
    ew_plan *p = NULL;
    EW_AUTO_BUF out = {0};
    switch (data[0] % 5) {
    case 0:
        if (ew_wire_unpack_manifest(s, &m, &err) == EW_OK && ew_wire_pack_manifest(m, &out, &err) != EW_OK) {
            abort();
        }
        ew_manifest_free(&m);
        break;
    case 1:
        if (ew_wire_unpack_plan(s, &p, &err) == EW_OK && ew_wire_pack_plan(p, &out, &err) != EW_OK) {
            abort();
        }
        ew_free(p);
        break;
    case 2:
        if (ew_wire_unpack_trial_spec(s, &spec, &err) == EW_OK && ew_wire_pack_trial_spec(&spec, &out, &err) != EW_OK) {
            abort();
        }
        break;
    case 3:
        if (ew_wire_unpack_trial_result(s, &result, &err) == EW_OK &&
            ew_wire_pack_trial_result(&result, &out, &err) != EW_OK) {
            abort();
        }
        break;
    default:
        if (ew_wire_unpack_caps(s, &caps, &err) == EW_OK && ew_wire_pack_caps(&caps, &out, &err) != EW_OK) {
            abort();
        }
    }
    return 0;
}
