/* One step of training: passes of packed rows through the model with its adapter, giving a loss, or a loss and a gradient.
 *
 * The loop (tune.h) owns order, packing, optimizer, budgets and checkpoints. A pass owns the buffers between, whose size a dry run
 * gives. Methods that need more than the plain gradient sit beside it and are called once per step:
 *
 *   gradient methods       for each pass of the step's batch: ew_pass_gradient adds to grad; then the optimizer (optim.h)
 *   block-wise (exits.h)   names a window of layers and an exit for this step; the pass runs up to it and learns inside it
 *   MeZO (mezo.h)          gets the parameter block and an ew_step_loss_fn, calls it a few times and changes the block itself
 *
 * The step's number is all the state that block-wise and MeZO may have (their randomness is a function of seed and step), which is
 * what makes them resume exactly. Locking: one owner; uses exec's pool. Nothing here allocates after start. */
#ifndef EW_TRAIN_STEP_H
#define EW_TRAIN_STEP_H

#include "base/arena.h"
#include "base/base.h"
#include "base/status.h"
#include "kern/kern.h"
#include "model/model.h"
#include "peft/adapter.h"
#include "train/backward.h"

/* The rungs of the memory ladder, most memory first. */
typedef enum ew_tune_rung {
    EW_TUNE_RUNG_AUTO,      /* the first that fits the limit */
    EW_TUNE_RUNG_KEEP,      /* every layer's activations are kept */
    EW_TUNE_RUNG_RECOMPUTE, /* the layers' inputs are kept in f32, each layer is computed again in the backward pass */
    EW_TUNE_RUNG_RECOMPUTE_BF16, /* the same, inputs kept in bf16 */
    EW_TUNE_RUNG_BLOCKWISE, /* one window of layers per step, loss at its exit: nothing is kept below it (2406.15758) */
    EW_TUNE_RUNG_MEZO       /* forward passes only (2305.17333) */
} ew_tune_rung;

/* "auto", "keep", "recompute", "recompute-bf16", "blockwise", "mezo"; and back: false when it is none. */
const char *ew_tune_rung_name(ew_tune_rung r);
bool ew_tune_rung_parse(const char *s, ew_tune_rung *ret);

/* Mean NLL of the answer tokens of the step's whole batch with the parameters as they are now (no dropout, forward only).
 * Tells the adapter that they changed. */
typedef double (*ew_step_loss_fn)(void *ctx);

/* Packed rows of a pass, and which of them count in the loss. */
typedef struct ew_step_batch {
    ew_train_batch b;      /* target and weight are not used */
    const uint32_t *row;   /* [n_rows] ascending: rows whose next token is of an answer */
    const int32_t *target; /* [n_rows] that token */
    size_t n_rows;
} ew_step_batch;

/* The layers whose parameters learn in this step, and where the loss is taken. */
typedef struct ew_pass_window {
    uint32_t first, last; /* layers [first, last), last <= L */
    int exit; /* index into the hooks' exits (whose layer is `last`); -1 = the model's own norm after layer L */
} ew_pass_window;

typedef struct ew_pass_opt {
    ew_exec exec;
    const ew_model *base;
    const ew_model *model; /* what runs: the base, or a full fine-tuning's own (peft/adapter.h); NULL = base */
    const ew_adapter_opt *adapter_opt; /* resolved; borrowed during new alone */
    ew_adapter *adapter;               /* NULL: sizes alone, by a dry arena */
    ew_tune_rung rung;                 /* KEEP to BLOCKWISE; MEZO: forward buffers alone */
    uint32_t window;                   /* BLOCKWISE: most layers of a window */
    uint32_t n_ctx;                    /* positions of the longest sequence, virtual ones counted; 0 = rows of a pass */
    uint64_t seed;                     /* of the dropout masks */
    bool drop_pages;                   /* give a layer's mapped pages back after use */
} ew_pass_opt;

typedef struct ew_pass ew_pass;

/* Tables of the pass; buffers come with ew_pass_take. EW_ENOMEM, EW_EUNSUPPORTED (a family or hook without backward). */
ew_status ew_pass_new(const ew_pass_opt *opt, ew_pass **ret_pass, ew_error *reterr) EW_MUST_CHECK;
void ew_pass_free(ew_pass **p);
/* Takes all buffers for at most t_max rows in a pass, a_max of them of answers; in a dry arena they only count. */
bool ew_pass_take(ew_pass *p, ew_arena *a, size_t t_max, size_t a_max);
/* Of those, what is scratch of products and of the loss. */
uint64_t ew_pass_scratch_bytes(const ew_pass *p);
/* Fills tables, once after ew_pass_take on a real arena. */
void ew_pass_start(ew_pass *p);

/* Sum of the answer tokens' negative log-likelihood; layers [0, w->last) and the head at w's exit. w NULL = all layers. */
double ew_pass_loss(ew_pass *p, const ew_step_batch *b, const ew_pass_window *w);
/* The same, and grad[n] += scale * d(sum)/d(parameters of the window's layers and its exit; virtual tokens when first is 0).
 * BLOCKWISE: grad holds the window's parameters alone, as ew_exits_spans has them. mask: number of this pass in the whole run (dropout's
 * counter). */
double ew_pass_gradient(ew_pass *p, const ew_step_batch *b, const ew_pass_window *w, float scale, uint64_t mask,
                        float *grad);

#endif
