#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

#include "base/buf.h"
#include "format/gguf.h"
#include "sys/file.h"

static const float data_a[] = {1, 2, 3, 4, 5, 6};
static unsigned char data_b[68];

static void write_sample(const char *path)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_gguf_writer) w = NULL;
    const ew_span words[] = {{"alpha", 5}, {"", 0}, {"g\0h", 3}};
    const int32_t ints[] = {-1, 2, 3};
    const uint64_t dims_a[] = {3, 2}, dims_b[] = {64};
    assert_ok(ew_gguf_writer_new(path, &w, &err), &err);
    ew_gguf_add_str(w, "general.architecture", "llama");
    ew_gguf_add_u32(w, "n", 7);
    ew_gguf_add_i32(w, "minus", -7);
    ew_gguf_add_u64(w, "big", UINT64_MAX);
    ew_gguf_add_f32(w, "half", 0.5f);
    ew_gguf_add_f32(w, "two", 2.0f);
    ew_gguf_add_bool(w, "yes", true);
    ew_gguf_add_array_str(w, "words", words, 3);
    ew_gguf_add_array(w, "ints", EW_GGUF_I32, ints, 3);
    assert_ok(ew_gguf_add_tensor(w, "a", EW_DTYPE_F32, 2, dims_a, &err), &err);
    assert_ok(ew_gguf_add_tensor(w, "b", EW_DTYPE_Q8_0, 1, dims_b, &err), &err);
    assert_fails(EW_EEXIST, ew_gguf_add_tensor(w, "b", EW_DTYPE_F32, 1, dims_b, &err), &err, "'b'");
    assert_fails(EW_EINVAL, ew_gguf_add_tensor(w, "c", EW_DTYPE_Q8_0, 1, dims_a, &err), &err, "'c'");
    assert_ok(ew_gguf_writer_begin(w, &err), &err);
    assert_fails(EW_EINVAL, ew_gguf_writer_commit(w, &err), &err, "0 of 2");
    assert_ok(ew_gguf_write(w, data_a, 7, &err), &err);
    assert_ok(ew_gguf_write(w, (const char *)data_a + 7, sizeof(data_a) - 7, &err), &err);
    assert_fails(EW_EINVAL, ew_gguf_write_tensor(w, 0, data_a, &err), &err, "order");
    assert_ok(ew_gguf_write_tensor(w, 1, data_b, &err), &err);
    assert_fails(EW_EINVAL, ew_gguf_write(w, data_a, 1, &err), &err, "more");
    assert_ok(ew_gguf_writer_commit(w, &err), &err);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *path = ew_test_path("sample.gguf");
    write_sample(path);
    EW_AUTO(ew_gguf) g = NULL;
    assert_ok(ew_gguf_open(path, &g, &err), &err);
    uint64_t u = 0;
    int64_t i = 0;
    uint32_t u32 = 0;
    double d = 0;
    float f = 0;
    bool b = false;
    char s[16];
    assert_true(ew_gguf_get_u64(g, "n", &u) && u == 7);
    assert_true(ew_gguf_get_u32(g, "n", &u32) && u32 == 7);
    assert_true(ew_gguf_get_i64(g, "minus", &i) && i == -7);
    assert_false(ew_gguf_get_u64(g, "minus", &u));
    assert_true(ew_gguf_get_u64(g, "big", &u) && u == UINT64_MAX);
    assert_false(ew_gguf_get_i64(g, "big", &i));
    assert_false(ew_gguf_get_f64(g, "big", &d));
    assert_false(ew_gguf_get_u32(g, "big", &u32));
    assert_true(ew_gguf_get_f32(g, "half", &f) && f == 0.5f);
    assert_false(ew_gguf_get_u64(g, "half", &u));
    assert_true(ew_gguf_get_u64(g, "two", &u) && u == 2);
    assert_true(ew_gguf_get_f64(g, "n", &d) && d == 7.0);
    assert_true(ew_gguf_get_bool(g, "yes", &b) && b);
    assert_false(ew_gguf_get_bool(g, "n", &b));
    assert_false(ew_gguf_get_f64(g, "words", &d));
    assert_true(ew_gguf_get_str_copy(g, "general.architecture", s, sizeof(s)));
    assert_string_equal(s, "llama");
    assert_false(ew_gguf_get_str_copy(g, "general.architecture", s, 5));
    assert_false(ew_gguf_has(g, "none"));
    ew_gguf_array a;
    assert_true(ew_gguf_get_array(g, "words", &a) && a.n == 3 && a.type == EW_GGUF_STRING);
    assert_memory_equal(ew_gguf_array_str(&a, 0).data, "alpha", 5);
    assert_int_equal(ew_gguf_array_str(&a, 1).size, 0);
    assert_memory_equal(ew_gguf_array_str(&a, 2).data, "g\0h", 3);
    assert_true(ew_gguf_get_array(g, "ints", &a) && ew_gguf_array_i64(&a, 0) == -1 && ew_gguf_array_f64(&a, 2) == 3.0);
    assert_int_equal(ew_gguf_n_kv(g), 9);
    assert_int_equal(ew_gguf_n_tensors(g), 2);
    const ew_tensor_view *t = NULL;
    assert_ok(ew_gguf_need(g, "a", &t, &err), &err);
    assert_int_equal(t->dims[0], 3);
    assert_memory_equal(t->data, data_a, sizeof(data_a));
    assert_int_equal((uintptr_t)t->data % 32, 0);
    assert_fails(EW_ENOENT, ew_gguf_need(g, "zz", &t, &err), &err, "'zz'");
}

static void keys_of_another_file_are_copied_whole(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *from = ew_test_path("from.gguf"), *to = ew_test_path("to.gguf");
    write_sample(from);
    EW_AUTO(ew_gguf) g = NULL;
    EW_AUTO(ew_gguf) h = NULL;
    EW_AUTO(ew_gguf_writer) w = NULL;
    assert_ok(ew_gguf_open(from, &g, &err), &err);
    assert_ok(ew_gguf_writer_new(to, &w, &err), &err);
    ew_gguf_add_u32(w, "n", 8);
    const char *const skip[] = {"general.", NULL};
    ew_gguf_add_all_from(w, g, skip);
    assert_ok(ew_gguf_writer_begin(w, &err), &err);
    assert_ok(ew_gguf_writer_commit(w, &err), &err);
    assert_ok(ew_gguf_open(to, &h, &err), &err);
    uint64_t n = 0;
    ew_gguf_array a;
    assert_true(ew_gguf_get_u64(h, "n", &n) && n == 8);
    assert_false(ew_gguf_has(h, "general.architecture"));
    assert_true(ew_gguf_get_array(h, "words", &a) && a.n == 3);
    assert_memory_equal(ew_gguf_array_str(&a, 2).data, "g\0h", 3);
    assert_int_equal(ew_gguf_n_kv(h), 8);
}

static void a_key_set_twice_fails_at_begin(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_gguf_writer) w = NULL;
    const char *path = ew_test_path("twice.gguf");
    assert_ok(ew_gguf_writer_new(path, &w, &err), &err);
    ew_gguf_add_u32(w, "k", 1);
    ew_gguf_add_u32(w, "k", 2);
    assert_fails(EW_EEXIST, ew_gguf_writer_begin(w, &err), &err, "'k'");
    ew_gguf_writer_free(&w);
    assert_false(ew_file_exists(path));
}

/* A hand-made file: version, one kv, one tensor. */
typedef struct parts {
    uint32_t version;
    uint64_t n_tensors, n_kv, key_len, dim, offset;
    uint32_t type;
    size_t cut;
} parts;

static ew_status open_parts(const parts *p, ew_error *err)
{
    static _Alignas(64) unsigned char file[4096];
    EW_AUTO_BUF b = {0};
    uint32_t u32type = 4, one = 1, dims = 1;
    uint64_t len = 1;
    ew_buf_add(&b, "GGUF", 4);
    ew_buf_add(&b, &p->version, 4);
    ew_buf_add(&b, &p->n_tensors, 8);
    ew_buf_add(&b, &p->n_kv, 8);
    ew_buf_add(&b, &p->key_len, 8);
    ew_buf_add(&b, "k", 1);
    ew_buf_add(&b, &u32type, 4);
    ew_buf_add(&b, &one, 4);
    ew_buf_add(&b, &len, 8);
    ew_buf_add(&b, "t", 1);
    ew_buf_add(&b, &dims, 4);
    ew_buf_add(&b, &p->dim, 8);
    ew_buf_add(&b, &p->type, 4);
    ew_buf_add(&b, &p->offset, 8);
    while (b.size % 32 != 0) {
        ew_buf_addc(&b, 0);
    }
    for (int i = 0; i < 128; i++) {
        ew_buf_addc(&b, 0);
    }
    assert_true(b.size <= sizeof(file) && b.status == EW_OK);
    memcpy(file, b.data, b.size);
    ew_gguf *g = NULL;
    ew_status st = ew_gguf_open_memory(file, b.size - p->cut, "made.gguf", &g, err);
    ew_gguf_free(&g);
    return st;
}

static const parts good = {.version = 3, .n_tensors = 1, .n_kv = 1, .key_len = 1, .dim = 32, .offset = 0, .type = 0};

static void hand_made_file_opens_whole(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    assert_ok(open_parts(&good, &err), &err);
}

static void each_wrong_number_has_its_error(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    parts p = good;
    p.version = 1;
    assert_fails(EW_EUNSUPPORTED, open_parts(&p, &err), &err, "version 1");
    p.version = 0x03000000;
    assert_fails(EW_EUNSUPPORTED, open_parts(&p, &err), &err, "byte order");
    p = good, p.n_tensors = UINT64_MAX;
    assert_fails(EW_ELIMIT, open_parts(&p, &err), &err, "tensors");
    p = good, p.n_tensors = 60000;
    assert_fails(EW_ECORRUPT, open_parts(&p, &err), &err, "");
    p = good, p.key_len = UINT64_MAX;
    assert_fails(EW_ELIMIT, open_parts(&p, &err), &err, "string");
    p = good, p.key_len = 60000;
    assert_fails(EW_ECORRUPT, open_parts(&p, &err), &err, "incomplete");
    p = good, p.dim = 33;
    assert_fails(EW_ECORRUPT, open_parts(&p, &err), &err, "past the end");
    p = good, p.dim = 0;
    assert_fails(EW_ECORRUPT, open_parts(&p, &err), &err, "shape");
    p = good, p.dim = UINT64_MAX;
    assert_fails(EW_ECORRUPT, open_parts(&p, &err), &err, "shape");
    p = good, p.offset = 8;
    assert_fails(EW_ECORRUPT, open_parts(&p, &err), &err, "multiple of 32");
    p = good, p.offset = UINT64_MAX - 31;
    assert_fails(EW_ECORRUPT, open_parts(&p, &err), &err, "past the end");
    p = good, p.type = 77;
    assert_fails(EW_EUNSUPPORTED, open_parts(&p, &err), &err, "type 77");
    p = good, p.cut = 1;
    assert_fails(EW_ECORRUPT, open_parts(&p, &err), &err, "past the end");
}

static void missing_and_foreign_files_are_told_apart(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_gguf *g = NULL;
    assert_fails(EW_ENOENT, ew_gguf_open(ew_test_path("nowhere.gguf"), &g, &err), &err, "nowhere.gguf");
    const char *path = ew_test_text("text.gguf", "this is a text file and no model at all");
    assert_fails(EW_ECORRUPT, ew_gguf_open(path, &g, &err), &err, "not a GGUF file");
    path = ew_test_text("empty.gguf", "");
    assert_fails(EW_ECORRUPT, ew_gguf_open(path, &g, &err), &err, "too few");
    assert_null(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),         cmocka_unit_test(keys_of_another_file_are_copied_whole),
        cmocka_unit_test(a_key_set_twice_fails_at_begin),  cmocka_unit_test(hand_made_file_opens_whole),
        cmocka_unit_test(each_wrong_number_has_its_error), cmocka_unit_test(missing_and_foreign_files_are_told_apart),
    };
    for (size_t i = 0; i < sizeof(data_b); i++) {
        data_b[i] = (unsigned char)i;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
