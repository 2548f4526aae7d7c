#include "model/pages.h"

#include "model/model_int.h"
#include "model/weights.h"

/* The parts of a layer, or embedding and head. */
static size_t mats_of(const ew_model *m, uint32_t i_layer, const ew_mat *ret[static EW_LINEAR_COUNT])
{
    size_t n = 0;
    if (i_layer < m->cfg.L) {
        for (; n < EW_LINEAR_COUNT; n++) {
            ret[n] = &m->layer[i_layer].linear[n];
        }
        return n;
    }
    ret[n++] = &m->token_embd;
    if (m->output.rows != 0 && m->output.data != m->token_embd.data) {
        ret[n++] = &m->output;
    }
    return n;
}

static bool mapped(const ew_model *m, const ew_mat *w)
{
    const size_t bytes = (size_t)w->rows * w->row_bytes;
    return w->rows != 0 && (m->gguf != NULL ? ew_gguf_holds(m->gguf, w->data, bytes)
                                            : m->st != NULL && ew_safetensors_holds(m->st, w->data, bytes));
}

uint64_t ew_model_pages_bytes(const ew_model *m, uint32_t i_layer)
{
    const ew_mat *w[EW_LINEAR_COUNT];
    uint64_t bytes = 0;
    const size_t n = mats_of(m, i_layer, w);
    for (size_t i = 0; i < n; i++) {
        bytes += mapped(m, w[i]) ? (uint64_t)w[i]->rows * w[i]->row_bytes : 0;
    }
    return bytes;
}

void ew_model_pages_drop(const ew_model *m, uint32_t i_layer)
{
    const ew_mat *w[EW_LINEAR_COUNT];
    const size_t n = mats_of(m, i_layer, w);
    for (size_t i = 0; i < n; i++) {
        const size_t bytes = (size_t)w[i]->rows * w[i]->row_bytes;
        if (!mapped(m, w[i])) {
            continue;
        }
        if (m->gguf != NULL) {
            ew_gguf_drop(m->gguf, w[i]->data, bytes);
        } else {
            ew_safetensors_drop(m->st, w[i]->data, bytes);
        }
    }
}
