/* Any bytes as an experiment-like YAML document and as a daemon's configuration. */
#include <stddef.h>
#include <stdint.h>

#include "sys/config.h"
#include "sys/yaml.h"

struct doc {
    char *name;
    int32_t n;
    double rate;
    bool on;
    char **list;
    unsigned list_count;
};

static const cyaml_schema_value_t entry = {CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char *, 0, 64)};
static const cyaml_schema_field_t fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, struct doc, name, 1, 16),
    CYAML_FIELD_INT("n", CYAML_FLAG_OPTIONAL, struct doc, n),
    CYAML_FIELD_FLOAT("rate", CYAML_FLAG_OPTIONAL, struct doc, rate),
    CYAML_FIELD_BOOL("on", CYAML_FLAG_OPTIONAL, struct doc, on),
    CYAML_FIELD_SEQUENCE("list", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct doc, list, &entry, 0, 3),
    CYAML_FIELD_END};
static const cyaml_schema_value_t schema = {CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct doc, fields)};

struct conf {
    char *name;
    int64_t n;
    double wait_s;
    uint64_t memory;
};
static const ew_config_key keys[] = {
    {"name", EW_CONFIG_STRING, offsetof(struct conf, name), "", 0, 0, "name"},
    {"n", EW_CONFIG_I64, offsetof(struct conf, n), "1", 0, 9, "number"},
    {"rate", EW_CONFIG_SECONDS, offsetof(struct conf, wait_s), "1s", 0, 0, "time"},
    {"list", EW_CONFIG_BYTES, offsetof(struct conf, memory), "1K", 0, 0, "size"},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ew_error err = EW_ERROR_INIT;
    struct doc *d = NULL;
    if (ew_yaml_load("f", data, size, &schema, (void **)&d, &err) == EW_OK) {
        ew_yaml_free(&schema, (void **)&d);
    }
    struct conf c;
    EW_AUTO(ew_config) config = NULL;
    if (ew_config_new(keys, EW_COUNT(keys), &c, &config, &err) == EW_OK) {
        (void)!ew_config_load_yaml(config, "f", data, size, &err);
    }
    return 0;
}
