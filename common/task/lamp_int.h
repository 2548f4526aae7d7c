/* Shared by the files of LaMP. */
#ifndef EW_TASK_LAMP_INT_H
#define EW_TASK_LAMP_INT_H

#include "task/lamp.h"

/* The labels, in the scorer's order; task.c has them too. */
extern const char *const ew__lamp_citations[2], *const ew__lamp_tags[15], *const ew__lamp_categories[15],
                                                                              *const ew__lamp_ratings[5];

/* Python's str.strip: what is left of s[0..n), borrowed from it. */
ew_span ew__lamp_strip(const char *s, size_t n);
/* Python's str.split: the next word, borrowed; false at the end. */
bool ew__lamp_split(const char **at, const char *end, ew_span *ret_word);

/* Places of q's records by date, oldest first, equal dates in the order of the file. EW_EINVAL when one has no date or one that is not made of numbers
 * with "-" between. *ret_index: [n_profile], freed by ew_free. */
ew_status ew__lamp_by_date(const ew_lamp_question *q, size_t **ret_index, ew_error *reterr) EW_MUST_CHECK;

#endif
