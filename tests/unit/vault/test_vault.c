/* ctest: TIMEOUT=120 */
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "sys/file.h"
#include "test.h"
#include "vault/vault.h"

static const uint8_t key[EW_AEAD_KEY_SIZE] = {1, 2, 3, 4, 5};
#define BASE "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static ew_vault *open_vault(const char *path)
{
    ew_error err = EW_ERROR_INIT;
    ew_vault *v = NULL;
    assert_ok(ew_vault_open(path, key, &v, &err), &err);
    return v;
}

static const char *const history =
    "{\"id\":\"one\",\"input\":\"Dear Ottoline, the marzipan arrived\",\"output\":\"Thanks!\"}\n"
    "{\"id\":\"two\",\"input\":\"Can we meet at Quillfeather lane?\",\"output\":\"Yes\"}\n"
    "{\"id\":\"three\",\"input\":\"The invoice for marzipan\",\"output\":\"Paid\"}\n";

static ew_vault *sample(const char *path)
{
    ew_error err = EW_ERROR_INIT;
    ew_vault *v = open_vault(path);
    ew_vault_import_result r;
    assert_ok(ew_vault_import(v, ew_test_text("history.jsonl", history), &r, &err), &err);
    assert_int_equal(r.n_added, 3);
    return v;
}

static void import_is_idempotent_and_keeps_the_order(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_vault) v = sample(ew_test_path("a.db"));
    ew_vault_import_result r;
    assert_ok(ew_vault_import(v, ew_test_text("history.jsonl", history), &r, &err), &err);
    assert_int_equal(r.n_read, 3);
    assert_int_equal(r.n_added, 0);
    assert_int_equal(r.n_known, 3);
    assert_ok(ew_vault_import(
                  v, ew_test_text("more.jsonl", "{\"id\":\"one\",\"input\":\"new\",\"output\":\"content\"}"), &r, &err),
              &err);
    assert_int_equal(r.n_added, 1);
    EW_AUTO_ITEMS items = {0};
    assert_ok(ew_vault_items(v, &items, &err), &err);
    assert_int_equal(items.n, 4);
    assert_string_equal(items.item[0].id, "one");
    assert_string_equal(items.item[2].output, "Paid");
    assert_true(ew_str_starts(items.item[3].id, "one~"));
    for (size_t i = 0; i < items.n; i++) {
        assert_int_equal(items.item[i].order, i + 1);
    }
    EW_AUTO_BUF out = {0};
    assert_ok(ew_vault_export(v, &out, &err), &err);
    EW_AUTO_ITEMS back = {0};
    assert_ok(ew_items_read_mem("export", out.data, out.size, &back, &err), &err);
    assert_int_equal(back.n, 4);
    assert_string_equal(back.item[1].input, items.item[1].input);
}

static void import_is_all_or_nothing(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_vault) v = sample(ew_test_path("b.db"));
    ew_vault_import_result r;
    const char *bad = ew_test_text("bad.jsonl", "{\"input\":\"x\",\"output\":\"y\"}\n{\"input\":\"x\"}\n");
    assert_fails(EW_ECORRUPT, ew_vault_import(v, bad, &r, &err), &err, "bad.jsonl:2");
    assert_fails(EW_EINVAL, ew_vault_import(v, ew_test_text("e.jsonl", "\n"), &r, &err), &err, "no record");
    size_t n;
    assert_ok(ew_vault_count(v, &n, &err), &err);
    assert_int_equal(n, 3);
}

/* Whatever is taken can be read again: one record that cannot would take the whole profile with it. */
static void what_could_not_be_read_back_is_refused(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_vault) v = sample(ew_test_path("r.db"));
    ew_vault_import_result r;
    EW_AUTO_BUF input = {0};
    char id[257] = "";
    for (size_t i = 0; i < 1000 * 1000; i++) {
        ew_buf_addc(&input, i % 2 == 0 ? '"' : 'x');
    }
    ew_item item = {(char *)(uintptr_t) "big", (char *)(uintptr_t) "", input.data, (char *)(uintptr_t) "o", 0};
    const ew_items big = {.item = &item, .n = 1};
    assert_fails(EW_ELIMIT, ew_vault_add_items(v, &big, &r, &err), &err, "'big'");
    memset(id, 'i', sizeof(id) - 1);
    item.id = id;
    input.data[10] = '\0';
    assert_ok(ew_vault_add_items(v, &big, &r, &err), &err);
    input.data[9] = '\0'; /* another content under the same, longest id */
    assert_ok(ew_vault_add_items(v, &big, &r, &err), &err);
    EW_AUTO_ITEMS items = {0};
    assert_ok(ew_vault_items(v, &items, &err), &err);
    assert_int_equal(items.n, 5);
    assert_string_equal(items.item[3].id, id);
    assert_int_equal(strlen(items.item[4].id), 64);
}

static void search_finds_the_persons_items(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *path = ew_test_path("c.db");
    EW_AUTO(ew_vault) v = sample(path);
    EW_AUTO_ITEMS items = {0};
    assert_ok(ew_vault_search(v, "marzipan invoice", 5, 0.0, &items, &err), &err);
    assert_int_equal(items.n, 2);
    assert_string_equal(items.item[0].id, "three");

    /* Another process adds and forgets: the next search sees it. */
    EW_AUTO(ew_vault) other = open_vault(path);
    ew_vault_import_result r;
    ew_vault_forget_result f;
    assert_ok(
        ew_vault_import(other, ew_test_text("x.jsonl", "{\"input\":\"more marzipan\",\"output\":\"z\"}"), &r, &err),
        &err);
    const ew_vault_match match = {.id = "three"};
    assert_ok(ew_vault_forget(other, &match, &f, &err), &err);
    EW_AUTO_ITEMS again = {0};
    assert_ok(ew_vault_search(v, "marzipan invoice", 5, 0.0, &again, &err), &err);
    assert_int_equal(again.n, 2);
    assert_string_not_equal(again.item[0].id, "three");
    assert_string_not_equal(again.item[1].id, "three");
}

static bool file_holds(const char *path, const char *word)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF b = {0};
    assert_ok(ew_file_read(path, 1u << 26, &b, &err), &err);
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= b.size; i++) {
        if (memcmp(b.data + i, word, n) == 0) {
            return true;
        }
    }
    return false;
}

/* The database and everything that lies beside it (write-ahead log, shared memory). */
static bool any_file_holds(const char *dir, const char *word)
{
    ew_error err = EW_ERROR_INIT;
    ew_dir_list list = {0};
    bool found = false;
    assert_ok(ew_dir_read(dir, &list, &err), &err);
    assert_true(list.n > 0);
    for (size_t i = 0; i < list.n; i++) {
        char path[EW_PATH_MAX];
        assert_ok(ew_path_join(path, sizeof(path), dir, list.entry[i].name, &err), &err);
        found = found || file_holds(path, word);
    }
    ew_dir_list_release(&list);
    return found;
}

static void nothing_readable_reaches_the_disk(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *dir = ew_test_path("disk");
    assert_ok(ew_dir_make(dir, 0700, &err), &err);
    char path[EW_PATH_MAX];
    assert_ok(ew_path_join(path, sizeof(path), dir, "profile.db", &err), &err);
    const char *words[] = {"marzipan", "Ottoline", "Quillfeather", "Thanks", "three", "secret-weights"};
    {
        EW_AUTO(ew_vault) v = sample(path);
        const ew_vault_adapter meta = {.task = "custom", .method = "lora", .base_sha256 = BASE};
        uint64_t id, rows[] = {1, 2};
        assert_ok(ew_vault_adapter_put(v, &meta, rows, 2, (ew_span){"secret-weights", 14}, &id, &err), &err);
        EW_AUTO_ITEMS items = {0};
        assert_ok(ew_vault_search(v, "marzipan", 5, 0.5, &items, &err), &err);
        for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
            assert_false(any_file_holds(dir, words[i]));
        }
        assert_true(any_file_holds(dir, "lora")); /* the search itself works */
    }
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        assert_false(any_file_holds(dir, words[i]));
    }
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 077, 0);
}

static void another_key_is_refused(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *path = ew_test_path("d.db");
    EW_AUTO(ew_vault) v = sample(path);
    ew_vault_free(&v);
    uint8_t wrong[EW_AEAD_KEY_SIZE] = {9};
    assert_fails(EW_EDENIED, ew_vault_open(path, wrong, &v, &err), &err, "another key");
    assert_null(v);
}

static void key_comes_from_the_credential_or_a_private_file(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    uint8_t a[EW_AEAD_KEY_SIZE], b[EW_AEAD_KEY_SIZE], c[EW_AEAD_KEY_SIZE];
    const char *file = ew_test_path("own.key");
    assert_ok(ew_vault_key(NULL, file, a, &err), &err);
    assert_ok(ew_vault_key("", file, b, &err), &err);
    assert_memory_equal(a, b, sizeof(a));
    struct stat st;
    assert_int_equal(stat(file, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(chmod(file, 0644), 0);
    assert_fails(EW_EDENIED, ew_vault_key(NULL, file, b, &err), &err, "chmod 600");

    const char *dir = ew_test_path("credentials");
    char path[EW_PATH_MAX];
    assert_ok(ew_dir_make(dir, 0700, &err), &err);
    assert_int_equal(chmod(file, 0600), 0);
    assert_ok(ew_vault_key(dir, file, b, &err), &err); /* no credential: the file */
    assert_memory_equal(a, b, sizeof(a));
    assert_ok(ew_path_join(path, sizeof(path), dir, "profile.key", &err), &err);
    memset(b, 7, sizeof(b));
    assert_ok(ew_file_replace(path, b, sizeof(b), 0400, &err), &err);
    assert_ok(ew_vault_key(dir, file, c, &err), &err);
    assert_memory_equal(b, c, sizeof(b));
}

static uint64_t put(ew_vault *v, const char *task, const uint64_t *rows, size_t n, size_t bytes)
{
    ew_error err = EW_ERROR_INIT;
    ew_vault_adapter meta = {.method = "lora",
                             .base_sha256 = BASE,
                             .score_base = 0.5,
                             .score_adapter = 0.75,
                             .created_ms = 7,
                             .rag_k = 2,
                             .rag_rank = 3,
                             .known_row = 2};
    ew_str_copy(meta.task, sizeof(meta.task), task);
    char *data = ew_calloc(bytes + 1, 1);
    assert_non_null(data);
    for (size_t i = 0; i < bytes; i++) {
        data[i] = (char)(i * 31 + i / 1000);
    }
    uint64_t id;
    assert_ok(ew_vault_adapter_put(v, &meta, rows, n, (ew_span){data, bytes}, &id, &err), &err);
    EW_AUTO_BUF back = {0};
    assert_ok(ew_vault_adapter_read(v, id, &back, &err), &err);
    assert_int_equal(back.size, bytes);
    assert_true(bytes == 0 || memcmp(back.data, data, bytes) == 0);
    ew_free(data);
    return id;
}

static void adapters_are_kept_in_chunks_and_one_is_active(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_vault) v = sample(ew_test_path("e.db"));
    uint64_t rows[] = {1, 2, 3};
    uint64_t a = put(v, "custom", rows, 2, 3 * 1024 * 1024 + 17), b = put(v, "custom", rows, 3, 1024 * 1024),
             c = put(v, "other", rows, 0, 0);
    ew_vault_adapter m;
    assert_fails(EW_ENOENT, ew_vault_adapter_active(v, "custom", BASE, &m, &err), &err, "custom");
    assert_ok(ew_vault_adapter_activate(v, "custom", BASE, a, &err), &err);
    assert_ok(ew_vault_adapter_activate(v, "custom", BASE, b, &err), &err);
    assert_ok(ew_vault_adapter_active(v, "custom", BASE, &m, &err), &err);
    assert_int_equal(m.id, b);
    assert_int_equal(m.n_items, 3);
    assert_true(m.rag_k == 2 && m.rag_rank == 3);
    assert_true(fabs(m.score_adapter - 0.75) < 1e-12);
    assert_fails(EW_ECONFLICT, ew_vault_adapter_activate(v, "custom", BASE, c, &err), &err, "belongs to task other");
    assert_ok(ew_vault_adapter_activate(v, "custom", BASE, 0, &err), &err);
    assert_fails(EW_ENOENT, ew_vault_adapter_active(v, "custom", BASE, &m, &err), &err, "custom");
    assert_ok(ew_vault_adapter_remove(v, a, &err), &err);
    EW_AUTO_BUF out = {0};
    assert_fails(EW_ENOENT, ew_vault_adapter_read(v, a, &out, &err), &err, "no adapter");
    ew_vault_adapter *list = NULL;
    size_t n;
    assert_ok(ew_vault_adapter_list(v, &list, &n, &err), &err);
    assert_int_equal(n, 2);
    ew_free(list);
}

static void adapters_that_nothing_refers_to_are_pruned(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_vault) v = sample(ew_test_path("p.db"));
    uint64_t rows[] = {1, 2, 3}, gone[] = {1, 99};
    uint64_t a = put(v, "custom", rows, 3, 10), b = put(v, "custom", rows, 3, 10), c = put(v, "custom", rows, 3, 10),
             flagged = put(v, "custom", gone, 2, 10), other = put(v, "other", rows, 3, 10);
    const uint64_t keep[] = {a, flagged};
    size_t removed = 0;
    ew_vault_adapter m;
    assert_ok(ew_vault_adapter_activate(v, "custom", BASE, c, &err), &err);
    assert_ok(ew_vault_adapter_prune(v, "custom", keep, 2, &removed, &err), &err);
    assert_int_equal(removed, 2);
    assert_ok(ew_vault_adapter_get(v, a, &m, &err), &err);
    assert_ok(ew_vault_adapter_get(v, c, &m, &err), &err);
    assert_ok(ew_vault_adapter_get(v, other, &m, &err), &err);
    assert_fails(EW_ENOENT, ew_vault_adapter_get(v, b, &m, &err), &err, "no adapter");
    assert_fails(EW_ENOENT, ew_vault_adapter_get(v, flagged, &m, &err), &err, "no adapter");
    size_t n = 0;
    uint64_t last = 0;
    assert_ok(ew_vault_count_after(v, 1, &n, &last, &err), &err);
    assert_int_equal(n, 2);
    assert_int_equal(last, 3);
}

static void vectors_come_back_and_leave_with_their_items(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_vault) v = sample(ew_test_path("vectors.db"));
    const float one[3] = {0.5f, -0.25f, 0}, two[3] = {0, 2, 2}, zero[3] = {0};
    float back[3];
    bool has = true;
    size_t n = 0;
    assert_ok(ew_vault_vector_get(v, "m/input", 1, 3, back, &has, &err), &err);
    assert_false(has);
    assert_ok(ew_vault_vector_put(v, "m/input", 1, one, 3, &err), &err);
    assert_ok(ew_vault_vector_put(v, "m/input", 2, one, 3, &err), &err);
    assert_ok(ew_vault_vector_put(v, "m/input", 2, two, 3, &err), &err); /* replaced */
    assert_ok(ew_vault_vector_put(v, "m/whole", 2, one, 3, &err), &err);
    assert_fails(EW_ENOENT, ew_vault_vector_put(v, "m/input", 9, one, 3, &err), &err, "no item 9");
    assert_fails(EW_EINVAL, ew_vault_vector_put(v, "m/input", 1, zero, 3, &err), &err, "direction");
    assert_ok(ew_vault_vector_get(v, "m/input", 1, 3, back, &has, &err), &err);
    assert_true(has && back[0] == 127 && back[1] == -64 && back[2] == 0);
    assert_ok(ew_vault_vector_get(v, "m/input", 2, 3, back, &has, &err), &err);
    assert_true(has && back[0] == 0 && back[1] == 127 && back[2] == 127);
    assert_ok(ew_vault_vector_get(v, "other/input", 1, 3, back, &has, &err), &err);
    assert_false(has);
    assert_ok(ew_vault_vector_get(v, "m/input", 1, 4, back, &has, &err), &err); /* of another size */
    assert_false(has);
    assert_ok(ew_vault_vector_count(v, &n, &err), &err);
    assert_int_equal(n, 3);
    const ew_vault_match match = {.id = "two"};
    ew_vault_forget_result r;
    assert_ok(ew_vault_forget(v, &match, &r, &err), &err);
    assert_ok(ew_vault_vector_count(v, &n, &err), &err);
    assert_int_equal(n, 1);
    assert_fails(EW_ENOENT, ew_vault_vector_put(v, "m/input", 2, one, 3, &err), &err, "no item 2");
}

static void forget_removes_items_and_flags_their_adapters(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_vault) v = sample(ew_test_path("f.db"));
    uint64_t first[] = {1, 2}, last[] = {3};
    uint64_t a = put(v, "custom", first, 2, 100), b = put(v, "custom", last, 1, 100);
    assert_ok(ew_vault_adapter_activate(v, "custom", BASE, a, &err), &err);
    ew_vault_forget_result f;
    const ew_vault_match nothing = {.text = ""}, absent = {.id = "nine"}, text = {.text = "QUILLfeather"};
    assert_fails(EW_EINVAL, ew_vault_forget(v, &nothing, &f, &err), &err, "say what");
    assert_fails(EW_ENOENT, ew_vault_forget(v, &absent, &f, &err), &err, "no item fits");
    assert_ok(ew_vault_forget(v, &text, &f, &err), &err);
    assert_int_equal(f.n_items, 1);
    assert_int_equal(f.n_adapters, 1);
    ew_vault_adapter m;
    assert_fails(EW_ENOENT, ew_vault_adapter_active(v, "custom", BASE, &m, &err), &err, "");
    assert_fails(EW_ECONFLICT, ew_vault_adapter_activate(v, "custom", BASE, a, &err), &err, "forgotten");
    assert_ok(ew_vault_adapter_activate(v, "custom", BASE, b, &err), &err);
    EW_AUTO_ITEMS items = {0};
    assert_ok(ew_vault_search(v, "Quillfeather", 5, 0.0, &items, &err), &err);
    assert_int_equal(items.n, 0);

    /* An adapter that was learning from it meanwhile is born flagged. */
    uint64_t late = put(v, "custom", first, 2, 10);
    assert_fails(EW_ECONFLICT, ew_vault_adapter_activate(v, "custom", BASE, late, &err), &err, "forgotten");

    const ew_vault_match all = {.all = true};
    assert_ok(ew_vault_forget(v, &all, &f, &err), &err);
    assert_int_equal(f.n_items, 2);
    assert_int_equal(f.n_adapters, 1);
    size_t n;
    assert_ok(ew_vault_count(v, &n, &err), &err);
    assert_int_equal(n, 0);

    /* Forgotten means that the same text can come back as new, under a new number. */
    ew_vault_import_result r;
    assert_ok(ew_vault_import(v, ew_test_text("history.jsonl", history), &r, &err), &err);
    assert_int_equal(r.n_added, 3);
    EW_AUTO_ITEMS fresh = {0};
    assert_ok(ew_vault_items(v, &fresh, &err), &err);
    assert_int_equal(fresh.item[0].order, 4);
}

/* A child imports batches, says each one's number when the call returned, and is killed somewhere. */
static void import_batches(const char *path, int out)
{
    ew_error err = EW_ERROR_INIT;
    ew_vault *v = NULL;
    if (ew_vault_open(path, key, &v, &err) != EW_OK) {
        _exit(1);
    }
    for (unsigned char batch = 0; batch < 200; batch++) {
        ew_items items = {0};
        for (int i = 0; i < 5; i++) {
            char input[64], id[32], user[1] = "", output[] = "o";
            snprintf(input, sizeof(input), "batch %d item %d", batch, i);
            snprintf(id, sizeof(id), "%d-%d", batch, i);
            const ew_item item = {id, user, input, output, 0};
            if (ew_items_add(&items, &item, &err) != EW_OK) {
                _exit(1);
            }
        }
        ew_vault_import_result r;
        if (ew_vault_add_items(v, &items, &r, &err) != EW_OK || write(out, &batch, 1) != 1) {
            _exit(1);
        }
        ew_items_release(&items);
    }
    _exit(0);
}

static void kill_at_any_moment_loses_nothing_acknowledged(void **state)
{
    (void)state;
    ew_rng rng;
    ew_rng_init(&rng, 11, 0);
    for (int round = 0; round < 8; round++) {
        char name[32];
        snprintf(name, sizeof(name), "kill%d.db", round);
        const char *path = ew_test_path(name);
        int fd[2];
        assert_int_equal(pipe(fd), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            close(fd[0]);
            import_batches(path, fd[1]);
        }
        close(fd[1]);
        size_t stop_after = 1 + (size_t)ew_rng_below(&rng, 12), told = 0;
        unsigned char batch;
        while (told < stop_after && read(fd[0], &batch, 1) == 1) {
            told++;
        }
        kill(pid, SIGKILL);
        while (read(fd[0], &batch, 1) == 1) {
            told++;
        }
        close(fd[0]);
        waitpid(pid, NULL, 0);
        assert_true(told >= stop_after);
        ew_error err = EW_ERROR_INIT;
        EW_AUTO(ew_vault) v = open_vault(path);
        EW_AUTO_ITEMS items = {0};
        assert_ok(ew_vault_items(v, &items, &err), &err);
        assert_true(items.n >= told * 5 && items.n % 5 == 0 && items.n <= (told + 1) * 5);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(import_is_idempotent_and_keeps_the_order),
        cmocka_unit_test(import_is_all_or_nothing),
        cmocka_unit_test(what_could_not_be_read_back_is_refused),
        cmocka_unit_test(search_finds_the_persons_items),
        cmocka_unit_test(nothing_readable_reaches_the_disk),
        cmocka_unit_test(another_key_is_refused),
        cmocka_unit_test(key_comes_from_the_credential_or_a_private_file),
        cmocka_unit_test(adapters_are_kept_in_chunks_and_one_is_active),
        cmocka_unit_test(adapters_that_nothing_refers_to_are_pruned),
        cmocka_unit_test(vectors_come_back_and_leave_with_their_items),
        cmocka_unit_test(forget_removes_items_and_flags_their_adapters),
        cmocka_unit_test(kill_at_any_moment_loses_nothing_acknowledged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
