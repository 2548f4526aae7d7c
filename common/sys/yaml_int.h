/* Shared by yaml.c and config.c. */
#ifndef EW_SYS_YAML_INT_H
#define EW_SYS_YAML_INT_H

#include <yaml.h>

#include "base/base.h"
#include "base/status.h"

/* Composes the one document of the text. *ret_root is NULL when there is none. The caller calls yaml_document_delete on success. */
ew_status ew__yaml_compose(const char *name, const void *text, size_t size, yaml_document_t *ret_doc,
                           yaml_node_t **ret_root, ew_error *reterr) EW_MUST_CHECK;
/* Line of the node, from 1. */
unsigned ew__yaml_line(const yaml_node_t *node);
/* The node's text when it is a scalar without a NUL in it, else NULL; borrowed from the document. */
const char *ew__yaml_scalar(const yaml_node_t *node);

#endif
