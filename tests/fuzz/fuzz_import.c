/* Any bytes as a history in one of the forms of training data: what is read can be written and read again. The first byte chooses the options. */
#include <stddef.h>
#include <stdint.h>

#include "task/import.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ew_error err = EW_ERROR_INIT;
    if (size == 0) {
        return 0;
    }
    const ew_import_opt opt = {.format = (ew_import_format)(data[0] % EW_IMPORT_COUNT),
                               .each_turn = (data[0] & 64) != 0,
                               .skip_bad = (data[0] & 128) != 0,
                               .user = data[0] % 3 == 0 ? "1" : NULL};
    EW_AUTO_ITEMS items = {0};
    ew_import_report report = {0};
    if (ew_import_mem("f", data + 1, size - 1, &opt, &items, &report, &err) != EW_OK) {
        EW_ASSERT(err.msg[0] != '\0' && items.n == 0);
        return 0;
    }
    EW_ASSERT(items.n > 0 && report.n_records > report.n_bad);
    EW_AUTO_BUF text = {.max = (size_t)64 * 1024 * 1024};
    for (size_t i = 0; i < items.n; i++) {
        ew_item_write(&items.item[i], &text);
    }
    EW_AUTO_ITEMS back = {0};
    EW_ASSERT(ew_items_read_mem("g", ew_buf_str(&text), text.size, &back, &err) == EW_OK);
    EW_ASSERT(back.n == items.n);
    return 0;
}
