/* What llama.cpp says: every token's logits (or, of an encoder, its hidden states) for a GGUF file, as raw f32. Not part of
 * the build; README.md says how it was made and used. Usage: llama_logits MODEL.gguf IDS.txt OUT.f32 [n_ctx] [n_batch] [LORA.gguf] */
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void quiet(enum ggml_log_level level, const char *text, void *ctx)
{
    (void)ctx;
    if (level >= GGML_LOG_LEVEL_WARN && level != GGML_LOG_LEVEL_CONT) {
        fputs(text, stderr);
    }
}

int main(int argc, char **argv)
{
    static llama_token ids[4096];
    int n = 0;
    FILE *f = fopen(argv[2], "r");
    while (f != NULL && n < 4096 && fscanf(f, "%d", &ids[n]) == 1) {
        n++;
    }
    llama_log_set(quiet, NULL);
    llama_backend_init();
    struct llama_model_params mp = llama_model_default_params();
    struct llama_model *m = llama_model_load_from_file(argv[1], mp);
    if (m == NULL) {
        return 1;
    }
    char arch[64] = "";
    llama_model_meta_val_str(m, "general.architecture", arch, sizeof(arch));
    int encoder = strcmp(arch, "bert") == 0;
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = argc > 4 ? (uint32_t)atoi(argv[4]) : 64;
    cp.n_batch = cp.n_ubatch = argc > 5 ? (uint32_t)atoi(argv[5]) : 64;
    cp.n_threads = cp.n_threads_batch = 1;
    cp.type_k = cp.type_v = GGML_TYPE_F32;
    cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    cp.embeddings = encoder;
    cp.pooling_type = LLAMA_POOLING_TYPE_NONE;
    struct llama_context *c = llama_init_from_model(m, cp);
    struct llama_adapter_lora *lora = argc > 6 ? llama_adapter_lora_init(m, argv[6]) : NULL;
    float scale = 1;
    if (argc > 6 && (lora == NULL || llama_set_adapters_lora(c, &lora, 1, &scale) != 0)) {
        return 3;
    }
    int V = llama_vocab_n_tokens(llama_model_get_vocab(m));
    int width = encoder ? llama_model_n_embd(m) : V;
    FILE *out = fopen(argv[3], "wb");
    for (int at = 0; at < n; at += (int)cp.n_batch) {
        int k = n - at < (int)cp.n_batch ? n - at : (int)cp.n_batch;
        struct llama_batch b = llama_batch_init(k, 0, 1);
        b.n_tokens = k;
        for (int i = 0; i < k; i++) {
            b.token[i] = ids[at + i];
            b.pos[i] = at + i;
            b.n_seq_id[i] = 1;
            b.seq_id[i][0] = 0;
            b.logits[i] = 1;
        }
        if ((encoder ? llama_encode(c, b) : llama_decode(c, b)) != 0) {
            return 2;
        }
        for (int i = 0; i < k; i++) {
            const float *row = encoder ? llama_get_embeddings_ith(c, i) : llama_get_logits_ith(c, i);
            fwrite(row, sizeof(float), (size_t)width, out);
        }
        llama_batch_free(b);
    }
    fclose(out);
    printf("%s: %d x %d\n", arch, n, width);
    return 0;
}
