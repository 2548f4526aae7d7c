/* Pages of a mapped model go and come back; what is not mapped stays. */
#include <string.h>

#include "base/mem.h"
#include "model/model.h"
#include "model/pages.h"
#include "model/save.h"
#include "model/weights.h"
#include "test.h"

#include "../train/tiny_model.h"

static uint64_t checksum(const ew_model *m)
{
    uint64_t h = 0;
    for (uint32_t il = 0; il < ew_model_config_of(m)->L; il++) {
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            const ew_mat *w = &ew_model_layer(m, il)->linear[i];
            const unsigned char *p = w->data;
            for (size_t j = 0; j < w->rows * w->row_bytes; j++) {
                h = h * 31 + p[j];
            }
        }
    }
    return h;
}

static void pages_come_back_as_they_were(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    tiny_model t;
    assert_true(tiny_open(&t, tiny_config(), 3));
    const uint64_t before = checksum(t.model);
    const uint32_t L = t.cfg.L;
    for (uint32_t il = 0; il <= L; il++) {
        assert_int_equal(ew_model_pages_bytes(t.model, il), 0); /* made from memory */
        ew_model_pages_drop(t.model, il);
    }
    assert_true(checksum(t.model) == before);
    const char *path = ew_test_path("pages.gguf");
    assert_ok(ew_model_save_gguf(t.model, path, NULL, &err), &err);
    EW_AUTO(ew_model) m = NULL;
    assert_ok(ew_model_open(path, &(ew_model_opt){.no_tokenizer = true}, &m, &err), &err);
    const uint64_t mapped = checksum(m);
    uint64_t bytes = 0;
    for (uint32_t il = 0; il <= L; il++) {
        assert_true(ew_model_pages_bytes(m, il) > 0);
        bytes += ew_model_pages_bytes(m, il);
        ew_model_pages_drop(m, il);
    }
    assert_true(bytes <= ew_model_weights_bytes(m) && 2 * bytes > ew_model_weights_bytes(m));
    assert_true(checksum(m) == mapped);
    tiny_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_come_back_as_they_were),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
