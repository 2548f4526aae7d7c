#include "domain/device.h"

#include <string.h>

const ew_rate *ew_caps_rate(const ew_device_caps *caps, const char *name)
{
    for (uint32_t i = 0; i < caps->n_rates; i++) {
        if (strcmp(caps->rates[i].name, name) == 0) {
            return &caps->rates[i];
        }
    }
    return NULL;
}

bool ew_caps_has_isa(const ew_device_caps *caps, const char *isa)
{
    for (uint32_t i = 0; i < caps->n_isa; i++) {
        if (strcmp(caps->isa[i], isa) == 0) {
            return true;
        }
    }
    return false;
}

bool ew_caps_has_feature(const ew_device_caps *caps, const char *feature)
{
    for (uint32_t i = 0; i < caps->n_features; i++) {
        if (strcmp(caps->features[i], feature) == 0) {
            return true;
        }
    }
    return false;
}

bool ew_device_id_valid(const char *id)
{
    size_t n = id != NULL ? strlen(id) : 0;
    return n > 0 && n < EW_DEVICE_ID_SIZE && strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}
