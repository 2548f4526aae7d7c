/* How long work tells how far it is and asks whether to go on. The library calls, the program shows (sys/term.h). */
#ifndef EW_BASE_PROGRESS_H
#define EW_BASE_PROGRESS_H

#include "base/base.h"

typedef struct ew_progress_info {
    const char *phase; /* "download", "train", …; this and unit are valid during the call */
    const char *unit;  /* "tok", "B", "items" */
    uint64_t done;     /* in units */
    uint64_t total;    /* in units; 0 = not known */
    double loss;       /* NAN when it has no meaning here */
    double left_s;     /* seconds left as the work itself reckons, NAN = derive from done and total */
    double tok_per_s;  /* of training; 0 = not known */
    double joules;     /* used so far by the machine; 0 = not known */
    bool estimated;    /* joules come from seconds and a calibrated power, not from a meter */
} ew_progress_info;

/* Returns false to ask the work to stop at its next safe point (EW_ECANCELLED). Called from the working thread. */
typedef bool (*ew_progress_fn)(const ew_progress_info *info, void *ctx);

typedef struct ew_progress {
    ew_progress_fn fn; /* NULL = silent */
    void *ctx;
} ew_progress;

static inline bool ew_progress_tell(const ew_progress *p, const ew_progress_info *info)
{
    return p == NULL || p->fn == NULL || p->fn(info, p->ctx);
}

#endif
