/* Damaged model files: cut anywhere or with flipped bits they open as something valid or fail with a message, never worse. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "format/gguf.h"
#include "format/safetensors.h"
#include "sys/file.h"

typedef ew_status (*open_fn)(const void *data, size_t size, ew_error *err);

/* Reads everything that a handle gives, so that the sanitizers see a wrong pointer. */
static unsigned touch(const void *data, size_t size)
{
    const unsigned char *p = data;
    unsigned sum = 0;
    for (size_t i = 0; i < size; i++) {
        sum += p[i];
    }
    return sum;
}

static volatile unsigned sink;

static ew_status open_gguf(const void *data, size_t size, ew_error *err)
{
    EW_AUTO(ew_gguf) g = NULL;
    ew_status st = ew_gguf_open_memory(data, size, "damaged", &g, err);
    if (st != EW_OK) {
        return st;
    }
    for (size_t i = 0; i < ew_gguf_n_tensors(g); i++) {
        sink += touch(ew_gguf_tensor(g, i)->data, ew_gguf_tensor(g, i)->bytes);
    }
    for (size_t i = 0; i < ew_gguf_n_kv(g); i++) {
        ew_gguf_array a;
        if (ew_gguf_get_array(g, ew_gguf_key(g, i), &a) && a.n > 0) {
            sink += a.type == EW_GGUF_STRING
                        ? touch(ew_gguf_array_str(&a, a.n - 1).data, ew_gguf_array_str(&a, a.n - 1).size)
                        : (unsigned)ew_gguf_array_i64(&a, a.n - 1);
        }
    }
    return EW_OK;
}

static ew_status open_safetensors(const void *data, size_t size, ew_error *err)
{
    EW_AUTO(ew_safetensors) s = NULL;
    ew_status st = ew_safetensors_open_memory(data, size, "damaged", &s, err);
    if (st != EW_OK) {
        return st;
    }
    for (size_t i = 0; i < ew_safetensors_n_tensors(s); i++) {
        sink += touch(ew_safetensors_tensor(s, i)->data, ew_safetensors_tensor(s, i)->bytes);
    }
    return EW_OK;
}

static void damage(const ew_buf *file, open_fn open)
{
    ew_error err = EW_ERROR_INIT;
    ew_rng rng;
    ew_rng_init(&rng, 42, 0);
    for (size_t cut = 0; cut < file->size; cut++) {
        /* A block of exactly this size, so that reading past it is seen. */
        void *p = ew_aligned(cut + 1);
        assert_non_null(p);
        memcpy(p, file->data, cut);
        ew_status st = open(p, cut, &err);
        if (st == EW_OK || err.msg[0] == '\0') {
            fail_msg("cut to %zu of %zu bytes: %s", cut, file->size, ew_status_name(st));
        }
        ew_free(p);
    }
    for (int i = 0; i < 20000; i++) {
        unsigned char *p = ew_aligned(file->size);
        assert_non_null(p);
        memcpy(p, file->data, file->size);
        for (uint64_t n = 1 + ew_rng_below(&rng, 3); n > 0; n--) {
            p[ew_rng_below(&rng, EW_MIN(file->size, (size_t)700))] ^= (unsigned char)(1u << ew_rng_below(&rng, 8));
        }
        err.msg[0] = '\0';
        assert_true(open(p, file->size, &err) == EW_OK || err.msg[0] != '\0');
        ew_free(p);
    }
}

static void damaged_gguf_files_open_or_fail_cleanly(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF file = {0};
    const char *path = ew_test_path("d.gguf");
    EW_AUTO(ew_gguf_writer) w = NULL;
    const ew_span words[] = {{"one", 3}, {"two", 3}};
    const float floats[64] = {1};
    const uint64_t dims[] = {8, 4};
    assert_ok(ew_gguf_writer_new(path, &w, &err), &err);
    ew_gguf_add_str(w, "general.architecture", "llama");
    ew_gguf_add_array_str(w, "words", words, 2);
    ew_gguf_add_array(w, "floats", EW_GGUF_F32, floats, 4);
    ew_gguf_add_u32(w, "general.alignment", 32);
    assert_ok(ew_gguf_add_tensor(w, "a", EW_DTYPE_F32, 2, dims, &err), &err);
    assert_ok(ew_gguf_add_tensor(w, "b", EW_DTYPE_F16, 1, dims + 1, &err), &err);
    assert_ok(ew_gguf_writer_begin(w, &err), &err);
    assert_ok(ew_gguf_write(w, floats, 128, &err), &err);
    assert_ok(ew_gguf_write(w, floats, 8, &err), &err);
    assert_ok(ew_gguf_writer_commit(w, &err), &err);
    assert_ok(ew_file_read(path, 1 << 20, &file, &err), &err);
    file.size -= 24; /* the padding behind the last tensor may be missing */
    assert_ok(open_gguf(file.data, file.size, &err), &err);
    damage(&file, open_gguf);
}

static void damaged_safetensors_files_open_or_fail_cleanly(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF file = {0};
    const char *path = ew_test_path("d.safetensors");
    EW_AUTO(ew_safetensors_writer) w = NULL;
    const float floats[64] = {1};
    const uint64_t dims[] = {8, 4};
    assert_ok(ew_safetensors_writer_new(path, &w, &err), &err);
    assert_ok(ew_safetensors_add_metadata(w, "format", "pt", &err), &err);
    assert_ok(ew_safetensors_add_tensor(w, "a", EW_DTYPE_F32, 2, dims, &err), &err);
    assert_ok(ew_safetensors_add_tensor(w, "b", EW_DTYPE_BF16, 2, dims, &err), &err);
    assert_ok(ew_safetensors_writer_begin(w, &err), &err);
    assert_ok(ew_safetensors_write(w, floats, 192, &err), &err);
    assert_ok(ew_safetensors_writer_commit(w, &err), &err);
    assert_ok(ew_file_read(path, 1 << 20, &file, &err), &err);
    damage(&file, open_safetensors);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_gguf_files_open_or_fail_cleanly),
        cmocka_unit_test(damaged_safetensors_files_open_or_fail_cleanly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
