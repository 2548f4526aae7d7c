/* Opening a file touches what describes it, the first token what it needs: counted in the pages of the mapping (/proc/self/smaps). */
#include "tiny.h"

#include "format/gguf.h"
#include "model/session.h"
#include "sys/file.h"

#define V 50000u
#define C 256u
#define F 512u
#define MATRIX_MIB (V * C * 2 / 1048576.0) /* 24.4: the embedding, and the output too */

static void add(ew_gguf_writer *w, const char *name, ew_dtype t, uint32_t n_dims, uint64_t cols, uint64_t n_rows)
{
    const uint64_t dims[2] = {cols, n_rows};
    assert_ok(ew_gguf_add_tensor(w, name, t, n_dims, dims, err));
}

static void fill(ew_gguf_writer *w, size_t n, size_t elem_bytes)
{
    static unsigned char zero[C * 64];
    for (size_t left = n * elem_bytes; left > 0;) {
        size_t part = EW_MIN(left, sizeof(zero));
        assert_ok(ew_gguf_write(w, zero, part, err));
        left -= part;
    }
}

/* One layer between two large matrices, all zeros: only the pages count here. */
static void write_model(const char *path)
{
    static const struct {
        const char *name;
        uint32_t rows, cols;
    } linear[] = {{"attn_q", C, C},   {"attn_k", C, C}, {"attn_v", C, C},  {"attn_output", C, C},
                  {"ffn_gate", F, C}, {"ffn_up", F, C}, {"ffn_down", C, F}};
    char name[64];
    EW_AUTO(ew_gguf_writer) w = NULL;
    assert_ok(ew_gguf_writer_new(path, &w, err));
    ew_gguf_add_str(w, "general.architecture", "llama");
    ew_gguf_add_u32(w, "llama.context_length", 64);
    ew_gguf_add_u32(w, "llama.embedding_length", C);
    ew_gguf_add_u32(w, "llama.block_count", 1);
    ew_gguf_add_u32(w, "llama.feed_forward_length", F);
    ew_gguf_add_u32(w, "llama.attention.head_count", 4);
    ew_gguf_add_u32(w, "llama.vocab_size", V);
    ew_gguf_add_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5F);
    add(w, "token_embd.weight", EW_DTYPE_F16, 2, C, V);
    add(w, "output.weight", EW_DTYPE_F16, 2, C, V);
    add(w, "output_norm.weight", EW_DTYPE_F32, 1, C, 1);
    add(w, "blk.0.attn_norm.weight", EW_DTYPE_F32, 1, C, 1);
    add(w, "blk.0.ffn_norm.weight", EW_DTYPE_F32, 1, C, 1);
    for (size_t i = 0; i < EW_COUNT(linear); i++) {
        (void)snprintf(name, sizeof(name), "blk.0.%s.weight", linear[i].name);
        add(w, name, EW_DTYPE_F16, 2, linear[i].cols, linear[i].rows);
    }
    assert_ok(ew_gguf_writer_begin(w, err));
    fill(w, (size_t)2 * V * C, 2);
    fill(w, (size_t)3 * C, 4);
    for (size_t i = 0; i < EW_COUNT(linear); i++) {
        fill(w, (size_t)linear[i].rows * linear[i].cols, 2);
    }
    assert_ok(ew_gguf_writer_commit(w, err));
}

/* MiB of the mapping of a file that are resident; negative: no such mapping. */
static double resident_mib(const char *file)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    bool here = false;
    double sum = -1;
    assert_non_null(f);
    while (fgets(line, sizeof(line), f) != NULL) {
        unsigned long kib;
        unsigned long from;
        unsigned long to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
            here = strstr(line, file) != NULL;
            sum = here ? EW_MAX(sum, 0.0) : sum;
        } else if (here && sscanf(line, "Rss: %lu kB", &kib) == 1) {
            sum += (double)kib / 1024;
        }
    }
    (void)fclose(f);
    return sum;
}

static void what_is_touched_is_what_is_needed(void **state)
{
    (void)state;
    char dir[EW_PATH_MAX];
    char path[2 * EW_PATH_MAX];
    assert_ok(ew_dir_make_temp("/tmp/ew-start-", dir, sizeof(dir), err));
    (void)snprintf(path, sizeof(path), "%s/pages.gguf", dir);
    write_model(path);
    EW_AUTO(ew_model) m = NULL;
    ew_session *s = NULL;
    static float logits[V];
    const int32_t ids[] = {1, 20000, 40000};
    assert_ok(ew_model_open(path, NULL, &m, err));
    double opened = resident_mib("pages.gguf");
    assert_ok(ew_session_new(m, &(ew_session_opt){.n_ctx = 64}, &s, err));
    double session = resident_mib("pages.gguf");
    assert_ok(ew_session_eval(s, ids, EW_COUNT(ids), NULL, err));
    double no_head = resident_mib("pages.gguf");
    assert_ok(ew_session_eval(s, ids, EW_COUNT(ids), logits, err));
    double all = resident_mib("pages.gguf");
    print_message("resident of %.1f MiB: opened %.2f, session %.2f, layers %.2f, with the head %.2f\n",
                  2 * MATRIX_MIB + 1.3, opened, session, no_head, all);
    /* The kernel maps neighbours of a page that it has anyway. */
    assert_true(opened >= 0 && opened < 4 && session < 4);
    assert_true(no_head < 8);
    assert_true(all > MATRIX_MIB && all < MATRIX_MIB + 12);
    ew_session_free(&s);
    ew_model_unref(&m);
    assert_ok(ew_model_open(path, &(ew_model_opt){.populate = true}, &m, err)); /* the measure does see pages */
    assert_true(resident_mib("pages.gguf") > 2 * MATRIX_MIB - 1);
    assert_ok(ew_dir_remove_tree(dir, err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_touched_is_what_is_needed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
