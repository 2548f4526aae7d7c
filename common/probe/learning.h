/* What a method with its settings means to the trainer: the kind of adapter, its options, where on the memory ladder, how fast and how often.
 * One place for the device that runs a trial, for the planner that predicts one and for the command line.
 *
 * Defaults of learning rate and passes are each method's own, chosen on the `debian` benchmark's dev users (docs/findings.md): text wants
 * larger steps than a handful of labels; a few virtual positions or scales want larger steps than matrices, and more of them.
 * Pure. Locking: any thread. */
#ifndef EW_PROBE_LEARNING_H
#define EW_PROBE_LEARNING_H

#include "base/status.h"
#include "domain/method.h"
#include "domain/trial.h"
#include "peft/adapter.h"
#include "train/step.h"

typedef struct ew_learning {
    ew_adapter_opt adapter;
    ew_tune_rung rung; /* AUTO unless the method is one, or the settings say */
    bool optimizer_8bit;
    float lr;
    uint32_t epochs;
} ew_learning;

/* For a method that trains (ew_method_trains). writes_text: the task's answers are free text, not labels. n_layers: of the model.
 * EW_EINVAL: more blocks than layers, moments of neither 8 nor 32 bits. */
ew_status ew_learning_of(ew_method method, const ew_settings *s, bool writes_text, uint32_t n_layers, uint64_t seed,
                         ew_learning *ret_learning, ew_error *reterr) EW_MUST_CHECK;
/* Passes over the history, whatever the task: ceil of the setting, or the method's own. */
uint32_t ew_learning_epochs(ew_method method, const ew_settings *s);
/* What a token of training costs beside one of LoRA with recompute (4 forward passes' worth of arithmetic): what is not differentiated and what
 * is not computed is saved, gradients of all weights cost more. */
double ew_learning_work(ew_method method, const ew_settings *s);

#endif
