/* The pages of a mapped model, layer by layer: for work that goes through the layers one after the other and counts what is resident.
 * Only pages of the file itself are given back (they come again from the page cache or the disk at the next touch); matrices
 * that opening copied, and models made from memory, stay as they are. Locking: any thread; while others read the same layer they only
 * pay for the pages again. */
#ifndef EW_MODEL_PAGES_H
#define EW_MODEL_PAGES_H

#include "base/base.h"
#include "model/model.h"

/* Bytes of the matrices of layer i_layer (< L) that lie in the mapped file; i_layer = L: embedding and head. */
uint64_t ew_model_pages_bytes(const ew_model *m, uint32_t i_layer);
/* Gives them back. */
void ew_model_pages_drop(const ew_model *m, uint32_t i_layer);

#endif
