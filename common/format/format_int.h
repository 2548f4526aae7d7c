/* Inside of format: what the two halves of GGUF share. */
#ifndef EW_FORMAT_FORMAT_INT_H
#define EW_FORMAT_FORMAT_INT_H

#include "base/buf.h"
#include "format/gguf.h"

/* Appends type and value of key i of g as they stand in the file. */
void ew__gguf_copy_value(const ew_gguf *g, size_t i, ew_buf *out);
/* 0 for strings, arrays and unknown types. */
size_t ew__gguf_type_bytes(uint32_t type);

#endif
