/* The pre-training corpus of the house models: the `debian` benchmark's training pool as plain texts and as task records.
 *
 * A document is BOS, text, EOS. A task record is the prompt of task/task.h (zero-shot, or with retrieved items of the same user) and
 * its answer, with loss weights of the recipe. What a pass shows depends on seed, pass and index alone. Validation documents
 * are task records of DEV users, zero-shot, of which the answers alone count.
 * Locking: one owning thread. */
#ifndef EW_TRAIN_CORPUS_H
#define EW_TRAIN_CORPUS_H

#include "base/base.h"
#include "base/progress.h"
#include "base/status.h"
#include "task/debian.h"
#include "token/tokenizer.h"
#include "train/pretrain.h"

typedef struct ew_corpus ew_corpus;

/* Trains the byte-level vocabulary of recipe->vocab_size pieces on the pool's plain texts. Pieces 0 and 1 are BOS and EOS. */
ew_status ew_corpus_vocab(const ew_debian *d, const ew_pretrain_recipe *recipe, const ew_progress *progress,
                          ew_vocab **ret_vocab, ew_error *reterr) EW_MUST_CHECK;

/* d, recipe and vocab are borrowed for the corpus' life. n_val: records per task in the validation set. Finds every pool item's
 * neighbours once (a minute or two when the recipe has retrieved items). */
ew_status ew_corpus_new(ew_debian *d, const ew_pretrain_recipe *recipe, const ew_vocab *vocab, size_t n_val,
                        const ew_progress *progress, ew_corpus **ret_corpus, ew_error *reterr) EW_MUST_CHECK;
void ew_corpus_free(ew_corpus **c);
ew_pretrain_source ew_corpus_train(ew_corpus *c);
ew_pretrain_source ew_corpus_val(ew_corpus *c);

/* A corpus of plain text files (one document per file piece, cut at blank lines), for models of one's own: every document is
 * weighted alike. path: a file, or a directory of *.txt files. */
ew_status ew_corpus_vocab_files(const char *path, const ew_pretrain_recipe *recipe, const ew_progress *progress,
                                ew_vocab **ret_vocab, ew_error *reterr) EW_MUST_CHECK;
/* Every 20th document is validation. */
ew_status ew_corpus_new_files(const char *path, const ew_pretrain_recipe *recipe, const ew_vocab *vocab,
                              ew_corpus **ret_corpus, ew_error *reterr) EW_MUST_CHECK;

#endif
