/* Any bytes as a history in JSON Lines: what is read writes back and reads the same; and as a retrieval query. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "rag/rag.h"
#include "task/item.h"

static void query(const uint8_t *data, size_t size)
{
    static ew_rag *rag;
    ew_error err = EW_ERROR_INIT;
    if (rag == NULL) {
        EW_ASSERT(ew_rag_new(&rag, &err) == EW_OK);
        EW_ASSERT(ew_rag_add(rag, 1, "some words to find", 18, 0, &err) == EW_OK);
    }
    ew_rag_hit hit[2];
    size_t n;
    const ew_rag_query q = {.text = (const char *)data,
                            .size = size,
                            .k = 2,
                            .before_order = UINT64_MAX,
                            .recency = size % 2 == 0 ? 0.0 : 0.5};
    EW_ASSERT(ew_rag_search(rag, &q, hit, &n, &err) == EW_OK && n <= 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ew_error err = EW_ERROR_INIT;
    query(data, size);
    EW_AUTO_ITEMS items = {0};
    if (ew_items_read_mem("f", data, size, &items, &err) != EW_OK) {
        EW_ASSERT(err.msg[0] != '\0' && items.n == 0);
        return 0;
    }
    EW_AUTO_BUF text = {0};
    for (size_t i = 0; i < items.n; i++) {
        ew_item_write(&items.item[i], &text);
    }
    EW_AUTO_ITEMS back = {0};
    EW_ASSERT(ew_items_read_mem("g", ew_buf_str(&text), text.size, &back, &err) == EW_OK);
    EW_ASSERT(back.n == items.n);
    for (size_t i = 0; i < items.n; i++) {
        EW_ASSERT(strcmp(back.item[i].input, items.item[i].input) == 0);
        EW_ASSERT(strcmp(back.item[i].output, items.item[i].output) == 0);
        EW_ASSERT(strcmp(back.item[i].id, items.item[i].id) == 0);
    }
    return 0;
}
