/* What the readers of items share. */
#ifndef EW_TASK_ITEM_INT_H
#define EW_TASK_ITEM_INT_H

#include <jansson.h>

#include "base/map.h"
#include "task/item.h"

/* Any of the forms of task/item.h. */
ew_status ew__item_from(const json_t *obj, const char *where, ew_item *ret_item, ew_error *reterr) EW_MUST_CHECK;
/* An item of these texts (trimmed in place; empty ones and NUL characters are errors), with id, user and order as obj gives them. */
ew_status ew__item_make(const json_t *obj, const char *where, ew_buf *input, ew_buf *output, ew_item *ret_item,
                        ew_error *reterr) EW_MUST_CHECK;
#define EW__ITEM_ID_MAX 256u

/* Takes the item unless the same user has the same content under the same id (then it stays the caller's); for another content
 * the id gets a suffix, or is the content's hash where that would be too long. ids: of the items. EW_ELIMIT: what ew_item_write makes of it could not
 * be read back. */
ew_status ew__items_add_unique(ew_items *items, ew_map *ids, const char *where, ew_item *item,
                               ew_error *reterr) EW_MUST_CHECK;

#endif
