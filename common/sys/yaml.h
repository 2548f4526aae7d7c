/* Strict YAML into C structs by a libcyaml schema: the only file of the project that calls libcyaml, so that it could be
 * replaced. Unknown keys, duplicate keys, wrong types and values out of range are EW_EINVAL with name, line and the
 * offending key in the message. Aliases and anchors are refused (they make small files large).
 *
 *   static const cyaml_schema_field_t fields[] = {CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, struct x, name, 1, 64),
 *                                                 CYAML_FIELD_END};
 *   static const cyaml_schema_value_t schema = {CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct x, fields)};
 *   struct x *x = NULL;
 *   EW_TRY(ew_yaml_load_file(path, &schema, (void **)&x, reterr));
 *   …
 *   ew_yaml_free(&schema, (void **)&x);
 *
 * Locking: any thread. */
#ifndef EW_SYS_YAML_H
#define EW_SYS_YAML_H

#include <cyaml/cyaml.h>

#include "base/base.h"
#include "base/status.h"

/* At most EW_LIMIT_YAML_BYTES. */
ew_status ew_yaml_load_file(const char *path, const cyaml_schema_value_t *schema, void **ret_data,
                            ew_error *reterr) EW_MUST_CHECK;
/* name stands for the path in messages. */
ew_status ew_yaml_load(const char *name, const void *text, size_t size, const cyaml_schema_value_t *schema,
                       void **ret_data, ew_error *reterr) EW_MUST_CHECK;
/* Array at top level: the schema is a sequence, *ret_n its length. */
ew_status ew_yaml_load_seq(const char *name, const void *text, size_t size, const cyaml_schema_value_t *schema,
                           void **ret_data, unsigned *ret_n, ew_error *reterr) EW_MUST_CHECK;
void ew_yaml_free(const cyaml_schema_value_t *schema, void **data);

#endif
