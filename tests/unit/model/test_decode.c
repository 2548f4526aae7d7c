/* Lean decoding: nothing is allocated between one token and the next, and nothing is computed that nobody looks at changes what is.
 * Allocations are counted in the C library's functions themselves, so those of libraries and of the pool's threads count too. */
#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tiny.h"

#include "model/generate.h"
#include "model/sampler.h"
#include "model/session.h"
#include "sys/pool.h"
#include "token/tokenizer.h"

#define GOLDEN EW_TEST_SOURCE_DIR "/tests/golden/model/"

/* ---- counting ---- */

static atomic_size_t n_alloc;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#if SANITIZED
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                              void (*on_free)(const volatile void *));

static void on_malloc(const volatile void *p, size_t size)
{
    (void)p;
    (void)size;
    n_alloc++;
}

static void on_free(const volatile void *p)
{
    (void)p;
}

static void start_counting(void)
{
    assert_true(__sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) > 0);
}
#else
/* In front of the C library's own, which glibc exports under these names too. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t align, size_t size);

void *malloc(size_t size)
{
    n_alloc++;
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    n_alloc++;
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
    n_alloc++;
    return __libc_realloc(p, size);
}

void *aligned_alloc(size_t align, size_t size)
{
    n_alloc++;
    return __libc_memalign(align, size);
}

int posix_memalign(void **ret, size_t align, size_t size)
{
    n_alloc++;
    *ret = __libc_memalign(align, size);
    return *ret == NULL ? ENOMEM : 0;
}

void *mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset)
{
    n_alloc++;
    return (void *)syscall(SYS_mmap, at, size, prot, flags, fd, offset);
}

static void start_counting(void)
{
}
#endif

/* ---- no allocation ---- */

static void the_count_sees_an_allocation(void **state)
{
    (void)state;
    start_counting();
    size_t before = n_alloc;
    void *volatile p = malloc(100);
    free(p);
    void *q = ew_aligned(1 << 20);
    ew_free(q);
    assert_true(n_alloc - before >= 2);
}

/* Tokens after the prompt, from the very first on. */
static void decode(const ew_model *m, ew_session_opt opt, const ew_sampler_opt *how)
{
    static const int32_t prompt[] = {1, 30, 40, 50, 60, 20, 21};
    uint32_t V = ew_model_config_of(m)->V;
    ew_session *s = NULL;
    ew_sampler *sampler = NULL;
    float *logits = ew_malloc(V, sizeof(float));
    assert_non_null(logits);
    assert_ok(ew_session_new(m, &opt, &s, err));
    assert_ok(ew_sampler_new(how, V, &sampler, err));
    ew_error err = EW_ERROR_INIT;
    ew_buf text = {0};
    ew_tok_stream stream = {.started = true};
    const ew_tokenizer *tok = ew_model_tokenizer(m);
    assert_non_null(ew_buf_extend(&text, 4096));
    ew_buf_clear(&text);

    size_t before = n_alloc;
    bool ok = ew_session_eval(s, prompt, EW_COUNT(prompt), logits, &err) == EW_OK;
    for (int i = 0; ok && i < 64; i++) {
        int32_t id = ew_sampler_next(sampler, logits);
        if (tok != NULL) {
            ew_tok_stream_push(&stream, tok, id, &text);
        }
        ok = ew_session_eval(s, &id, 1, logits, &err) == EW_OK;
    }
    size_t after = n_alloc;
    if (!ok || after != before) {
        fail_msg("%zu allocations in 64 tokens; %s", after - before, err.msg);
    }
    ew_buf_release(&text);
    ew_sampler_free(&sampler);
    ew_session_free(&s);
    ew_free(logits);
}

static void decoding_allocates_nothing(void **state)
{
    (void)state;
    static const char *const files[] = {"llama64-q4_0.gguf", "llama64-q8_0.gguf", "llama32-f16.gguf"};
    static const ew_sampler_opt how[] = {
        {0}, {.temperature = 0.8F, .top_k = 20, .top_p = 0.9F, .repeat_penalty = 1.1F}, {.temperature = 1.5F}};
    static const ew_kv_type kv[] = {EW_KV_F16, EW_KV_F32, EW_KV_F16};
    for (size_t f = 0; f < EW_COUNT(files); f++) {
        char path[512];
        EW_AUTO(ew_model) m = NULL;
        (void)snprintf(path, sizeof(path), GOLDEN "%s", files[f]);
        assert_ok(ew_model_open(path, NULL, &m, err));
        for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
            /* A sanitizer allocates itself as a thread starts, whenever that is. */
            for (unsigned threads = 1; threads <= (SANITIZED ? 1 : 4); threads *= 2) {
                ew_pool *pool = NULL;
                assert_ok(ew_pool_new(threads, &pool, err)); /* new threads: they have computed nothing yet */
                decode(m, (ew_session_opt){.n_ctx = 128, .exec = {ew_kern_at(i), pool}, .kv_type = kv[i % 3]},
                       &how[i % EW_COUNT(how)]);
                ew_pool_free(&pool);
            }
        }
    }
}

static bool note(const char *text, size_t size, void *ctx)
{
    size_t *seen = ctx; /* calls, allocations at the first, at the last */
    (void)text;
    (void)size;
    seen[seen[0]++ == 0 ? 1 : 2] = n_alloc;
    return true;
}

static void generating_text_allocates_nothing_between_tokens(void **state)
{
    (void)state;
    static const int32_t prompt[] = {1, 30, 40};
    size_t seen[3] = {0};
    EW_AUTO(ew_model) m = NULL;
    ew_session *s = NULL;
    assert_ok(ew_model_open(GOLDEN "llama64-q4_0.gguf", NULL, &m, err));
    assert_ok(ew_session_new(m, &(ew_session_opt){.n_ctx = 128}, &s, err));
    ew_generate_opt opt = {.max_tok = 80, .ignore_eog = true, .on_text = note, .ctx = seen};
    opt.sampler = (ew_sampler_opt){.temperature = 1, .top_p = 0.9F, .seed = 3};
    assert_ok(ew_generate(s, prompt, EW_COUNT(prompt), &opt, NULL, NULL, NULL, err));
    assert_true(seen[0] > 10);
    assert_int_equal(seen[1], seen[2]);
    ew_session_free(&s);
}

/* ---- only what is needed ---- */

#define N 21

static void the_last_row_is_the_same_when_only_it_is_asked_for(void **state)
{
    (void)state;
    ew_model_config cfg = tiny_config();
    tiny t;
    tiny_make(&t, &cfg, true, 7);
    int32_t ids[N];
    tiny_ids(cfg.V, 8, ids, N);
    static float all[N * 67];
    float row[67];
    for (uint32_t batch = 1; batch <= N; batch += 4) {
        ew_session *s = NULL;
        ew_session_opt opt = {.n_batch = batch, .exec.kern = ew_kern_get("ref")};
        assert_ok(ew_session_new(t.model, &opt, &s, err));
        assert_ok(ew_session_eval_all(s, ids, N, all, err));
        ew_session_reset(s);
        assert_ok(ew_session_eval(s, ids, N - 6, row, err));
        assert_memory_equal(row, all + (N - 7) * 67, sizeof(row));
        assert_ok(ew_session_eval(s, ids + N - 6, 4, NULL, err)); /* nobody looks at these at all */
        assert_ok(ew_session_eval(s, ids + N - 2, 2, row, err));
        assert_memory_equal(row, all + (N - 1) * 67, sizeof(row));
        double nll;
        double want = 0;
        size_t n;
        assert_ok(ew_session_nll(s, ids, N, 10, &nll, &n, err));
        for (size_t i = 10; i < N; i++) {
            want -= ew_log_prob(all + (i - 1) * 67, 67, ids[i]);
        }
        assert_true(n == N - 10 && fabs(nll - want) < 1e-9);
        ew_session_free(&s);
    }
    tiny_release(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_count_sees_an_allocation),
        cmocka_unit_test(decoding_allocates_nothing),
        cmocka_unit_test(generating_text_allocates_nothing_between_tokens),
        cmocka_unit_test(the_last_row_is_the_same_when_only_it_is_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
