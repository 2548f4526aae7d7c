#include <stdio.h>
#include <string.h>

#include "test.h"

#include "format/safetensors.h"
#include "sys/file.h"

static const float data[] = {1, 2, 3, 4, 5, 6};

static void write_file(const char *path, const char *name, const char *key)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_safetensors_writer) w = NULL;
    const uint64_t dims[] = {3, 2};
    assert_ok(ew_safetensors_writer_new(path, &w, &err), &err);
    assert_ok(ew_safetensors_add_metadata(w, "format", key, &err), &err);
    assert_ok(ew_safetensors_add_tensor(w, name, EW_DTYPE_F32, 2, dims, &err), &err);
    assert_fails(EW_EEXIST, ew_safetensors_add_tensor(w, name, EW_DTYPE_F32, 2, dims, &err), &err, name);
    assert_fails(EW_EINVAL, ew_safetensors_add_tensor(w, "q", EW_DTYPE_Q8_0, 2, dims, &err), &err, "'q'");
    assert_ok(ew_safetensors_writer_begin(w, &err), &err);
    assert_ok(ew_safetensors_write(w, data, 8, &err), &err);
    assert_fails(EW_EINVAL, ew_safetensors_writer_commit(w, &err), &err, "8 of 24");
    assert_ok(ew_safetensors_write(w, data + 2, 16, &err), &err);
    assert_ok(ew_safetensors_writer_commit(w, &err), &err);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *path = ew_test_path("w.safetensors");
    write_file(path, "a.weight", "pt");
    EW_AUTO(ew_safetensors) s = NULL;
    assert_ok(ew_safetensors_open(path, &s, &err), &err);
    const ew_tensor_view *t = ew_safetensors_find(s, "a.weight");
    assert_non_null(t);
    assert_int_equal(t->dims[0], 3);
    assert_int_equal(t->dims[1], 2);
    assert_memory_equal(t->data, data, sizeof(data));
    assert_string_equal(ew_safetensors_metadata(s, "format"), "pt");
    assert_null(ew_safetensors_find(s, "b"));
    assert_int_equal(ew_safetensors_n_tensors(s), 1);
}

static void shards_named_by_an_index_are_one_model(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    char dir[EW_PATH_MAX], path[EW_PATH_MAX];
    assert_true(snprintf(dir, sizeof(dir), "%s", ew_test_path("sharded")) > 0);
    assert_ok(ew_dir_make(dir, 0700, &err), &err);
    assert_fails(EW_ENOENT, ew_safetensors_open(dir, &(ew_safetensors *){NULL}, &err), &err, "HINT");
    assert_ok(ew_path_join(path, sizeof(path), dir, "m-1.safetensors", &err), &err);
    write_file(path, "a", "pt");
    assert_ok(ew_path_join(path, sizeof(path), dir, "m-2.safetensors", &err), &err);
    write_file(path, "b", "pt");
    assert_ok(ew_path_join(path, sizeof(path), dir, "model.safetensors.index.json", &err), &err);
    const char *index = "{\"weight_map\": {\"a\": \"m-1.safetensors\", \"b\": \"m-2.safetensors\"}}";
    assert_ok(ew_file_replace(path, index, strlen(index), 0600, &err), &err);
    EW_AUTO(ew_safetensors) s = NULL;
    assert_ok(ew_safetensors_open(dir, &s, &err), &err);
    assert_non_null(ew_safetensors_find(s, "a"));
    assert_non_null(ew_safetensors_find(s, "b"));
    ew_safetensors *no = NULL;
    index = "{\"weight_map\": {\"a\": \"../m-1.safetensors\"}}";
    assert_ok(ew_file_replace(path, index, strlen(index), 0600, &err), &err);
    assert_fails(EW_ECORRUPT, ew_safetensors_open(dir, &no, &err), &err, "plain file name");
}

static ew_status open_text(const char *json, size_t n_data, ew_error *err)
{
    static _Alignas(64) unsigned char file[2048];
    uint64_t n = strlen(json);
    memset(file, 0, sizeof(file));
    memcpy(file, &n, 8);
    memcpy(file + 8, json, n);
    ew_safetensors *s = NULL;
    ew_status st = ew_safetensors_open_memory(file, 8 + n + n_data, "made", &s, err);
    ew_safetensors_free(&s);
    return st;
}

static void each_wrong_header_has_its_error(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *good = "{\"a\":{\"dtype\":\"F16\",\"shape\":[2,4],\"data_offsets\":[0,16]}}";
    assert_ok(open_text(good, 16, &err), &err);
    assert_ok(open_text("{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, &err), &err);
    assert_fails(EW_ECORRUPT, open_text(good, 15, &err), &err, "outside");
    assert_fails(EW_ECORRUPT, open_text(good, 17, &err), &err, "no tensor");
    assert_fails(EW_ECORRUPT,
                 open_text("{\"a\":{\"dtype\":\"F16\",\"shape\":[2,4],\"data_offsets\":[0,14]}}", 14, &err), &err,
                 "does not match");
    assert_fails(EW_ECORRUPT,
                 open_text("{\"a\":{\"dtype\":\"F16\",\"shape\":[2,4],\"data_offsets\":[2,18]}}", 18, &err), &err,
                 "gap");
    assert_fails(EW_ECORRUPT, open_text("{\"a\":{\"dtype\":\"F16\",\"shape\":[-1],\"data_offsets\":[0,0]}}", 0, &err),
                 &err, "positive");
    assert_fails(EW_EUNSUPPORTED,
                 open_text("{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, &err), &err,
                 "F8_E4M3");
    assert_fails(EW_ECORRUPT, open_text("{\"a\":{\"dtype\":\"F16\",\"shape\":[1]}}", 0, &err), &err, "lacks");
    assert_fails(EW_ECORRUPT, open_text("[1,2]", 0, &err), &err, "object");
    assert_fails(EW_ECORRUPT, open_text("{\"a\":", 0, &err), &err, "");
    ew_safetensors *s = NULL;
    const uint64_t lie[2] = {UINT64_MAX, 0};
    assert_fails(EW_ECORRUPT, ew_safetensors_open_memory(lie, 16, "made", &s, &err), &err, "not a safetensors");
    assert_fails(EW_ECORRUPT, ew_safetensors_open_memory(lie, 3, "made", &s, &err), &err, "not a safetensors");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(shards_named_by_an_index_are_one_model),
        cmocka_unit_test(each_wrong_header_has_its_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
