/* LaMP's questions: any bytes are questions or an error that names the place; what is read can be ranked, prompted and learned from. */
#include <stdlib.h>

#include "task/lamp.h"

static void use(ew_lamp_task task, const ew_lamp_question *q)
{
    EW_AUTO_ITEMS items = {0};
    EW_AUTO_BUF prompt = {0};
    size_t index[4], n = 4;
    const ew_lamp_record *record[4];
    bool personal;
    if (ew_lamp_rank(task, q, q->n_profile % 2 == 0 ? EW_LAMP_BM25 : EW_LAMP_FUSED, true, n, index, &n, NULL) !=
        EW_OK) {
        n = 0;
    }
    for (size_t i = 0; i < n; i++) {
        EW_ASSERT(index[i] < q->n_profile);
        record[i] = &q->profile[index[i]];
    }
    EW_ASSERT(ew_lamp_prompt(task, q->input, record, n, 48, NULL, &prompt, &personal, NULL) == EW_OK);
    ew_status st = ew_lamp_examples(task, q, "u", 0, 1, &items, NULL);
    EW_ASSERT(st == EW_OK || st == EW_EINVAL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_lamp_reader) r = NULL;
    ew_lamp_task task = size != 0 ? (ew_lamp_task)(data[size - 1] % EW_LAMP_COUNT) : EW_LAMP_3;
    if (ew_lamp_open_mem("q.json", data, size, task, &r, &err) != EW_OK) {
        return 0;
    }
    for (bool more = true; more;) {
        EW_CLEANUP(ew_lamp_question_release) ew_lamp_question q = {0};
        ew_status st = ew_lamp_next(r, &q, &more, &err);
        if (st != EW_OK) {
            EW_ASSERT(st == EW_ECORRUPT && err.msg[0] != '\0');
            return 0;
        }
        if (more) {
            use(task, &q);
        }
    }
    return 0;
}
