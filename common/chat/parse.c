/* Tokens to a syntax tree, with the grammar and the precedences of jinja2/parser.py. */
#include <stdio.h>
#include <string.h>

#include "chat/chat_int.h"

#define END_NAMES_MAX 4

typedef struct parser {
    ew_chat_template *t;
    const ew__token *tok; /* the present one; the last is END */
    unsigned depth;
    unsigned loops; /* open for loops, within the present macro */
    ew_error *err;
} parser;

static ew_status fail_at(const parser *p, const ew__token *at, ew_status code, const char *what, const char *name,
                         size_t n)
{
    return ew_fail(p->err, code, "chat template line %u column %u: %s%s%.*s%s", at->line, at->col, what,
                   name != NULL ? " '" : "", (int)EW_MIN(n, 60u), name != NULL ? name : "", name != NULL ? "'" : "");
}

static ew_status syntax(const parser *p, const char *what)
{
    return fail_at(p, p->tok, EW_ECORRUPT, what, NULL, 0);
}

static ew_status enter(parser *p)
{
    if (p->depth >= EW_LIMIT_CHAT_DEPTH) {
        return fail_at(p, p->tok, EW_ELIMIT, "nested too deep", NULL, 0);
    }
    p->depth++;
    return EW_OK;
}

static ew_status new_node(parser *p, ew__node_type type, const ew__token *at, ew__node **ret)
{
    ew__node *n = ew__region_take(&p->t->mem, 1, sizeof(*n));
    if (n == NULL) {
        return ew_fail(p->err, EW_ELIMIT, "the chat template is too large");
    }
    memset(n, 0, sizeof(*n));
    n->type = type;
    n->line = at->line;
    n->col = at->col;
    n->sym = -1;
    *ret = n;
    return EW_OK;
}

static ew_status set_symbol(parser *p, ew__node *n, const ew__token *t)
{
    n->val = ew__text_n(t->p, t->n);
    return ew__symbol_add(p->t, t->p, t->n, &n->sym, p->err);
}

static bool is_op(const parser *p, ew__op op)
{
    return p->tok->type == EW__T_OP && p->tok->op == op;
}

static bool token_is(const ew__token *t, const char *name)
{
    return t->type == EW__T_NAME && t->n == strlen(name) && memcmp(t->p, name, t->n) == 0;
}

static bool is_name(const parser *p, const char *name)
{
    return token_is(p->tok, name);
}

static bool skip_op(parser *p, ew__op op)
{
    bool yes = is_op(p, op);
    p->tok += yes;
    return yes;
}

static bool skip_name(parser *p, const char *name)
{
    bool yes = is_name(p, name);
    p->tok += yes;
    return yes;
}

static ew_status expect_op(parser *p, ew__op op, const char *what)
{
    return skip_op(p, op) ? EW_OK : syntax(p, what);
}

static ew_status expect_name(parser *p, const ew__token **ret)
{
    if (p->tok->type != EW__T_NAME) {
        return syntax(p, "a name is expected");
    }
    *ret = p->tok++;
    return EW_OK;
}

/* Appends to a list whose end is *tail. */
static void append(ew__node ***tail, ew__node *n)
{
    **tail = n;
    *tail = &n->next;
}

static ew_status parse_expr(parser *p, ew__node **ret);
static ew_status parse_or(parser *p, ew__node **ret);
static ew_status parse_unary(parser *p, bool with_filter, ew__node **ret);
static ew_status parse_primary(parser *p, ew__node **ret);
static ew_status parse_postfix(parser *p, ew__node **node);
static ew_status parse_filters(parser *p, ew__node **node);

/* ---- expressions ---- */

static bool tuple_ends(const parser *p)
{
    return p->tok->type == EW__T_VAR_END || p->tok->type == EW__T_BLOCK_END || is_op(p, EW__OP_RPAREN);
}

/* One expression, or several with commas: a tuple. plain: no ternary on top. ends_in, ends_recursive: words that end it. */
static ew_status parse_tuple(parser *p, bool plain, bool parens, const char *end_word, ew__node **ret)
{
    ew__node *first = NULL;
    ew__node **tail = &first;
    const ew__token *at = p->tok;
    bool tuple = false;
    while (!tuple_ends(p) && !(end_word != NULL && is_name(p, end_word))) {
        ew__node *n = NULL;
        EW_TRY(plain ? parse_or(p, &n) : parse_expr(p, &n));
        append(&tail, n);
        if (!skip_op(p, EW__OP_COMMA)) {
            break;
        }
        tuple = true;
    }
    if (!tuple && first != NULL) {
        *ret = first;
        return EW_OK;
    }
    if (!tuple && !parens) {
        return syntax(p, "an expression is expected");
    }
    EW_TRY(new_node(p, EW__N_TUPLE, at, ret));
    (*ret)->a = first;
    return EW_OK;
}

static ew_status parse_list(parser *p, ew__node **ret)
{
    EW_TRY(new_node(p, EW__N_LIST, p->tok, ret));
    ew__node **tail = &(*ret)->a;
    p->tok++;
    while (!is_op(p, EW__OP_RBRACKET)) {
        ew__node *n = NULL;
        if ((*ret)->a != NULL) {
            EW_TRY(expect_op(p, EW__OP_COMMA, "',' or ']' is expected in a list"));
        }
        if (is_op(p, EW__OP_RBRACKET)) {
            break;
        }
        EW_TRY(parse_expr(p, &n));
        append(&tail, n);
    }
    p->tok++;
    return EW_OK;
}

static ew_status parse_dict(parser *p, ew__node **ret)
{
    EW_TRY(new_node(p, EW__N_DICT, p->tok, ret));
    ew__node **tail = &(*ret)->a;
    p->tok++;
    while (!is_op(p, EW__OP_RBRACE)) {
        ew__node *key = NULL;
        ew__node *value = NULL;
        if ((*ret)->a != NULL) {
            EW_TRY(expect_op(p, EW__OP_COMMA, "',' or '}' is expected in a dict"));
        }
        if (is_op(p, EW__OP_RBRACE)) {
            break;
        }
        EW_TRY(parse_expr(p, &key));
        EW_TRY(expect_op(p, EW__OP_COLON, "':' is expected in a dict"));
        EW_TRY(parse_expr(p, &value));
        append(&tail, key);
        append(&tail, value);
    }
    p->tok++;
    return EW_OK;
}

/* Neighbouring string literals are one. */
static ew_status parse_string(parser *p, ew__node **ret)
{
    size_t n = 0;
    const ew__token *first = p->tok;
    for (; p->tok->type == EW__T_STR; p->tok++) {
        n += p->tok->n;
    }
    EW_TRY(new_node(p, EW__N_CONST, first, ret));
    if (p->tok == first + 1) {
        (*ret)->val = ew__text_n(first->p, first->n);
        return EW_OK;
    }
    char *text = ew__region_take(&p->t->mem, n + 1, 1);
    if (text == NULL) {
        return ew_fail(p->err, EW_ELIMIT, "the chat template is too large");
    }
    (*ret)->val = ew__text_n(text, n);
    for (; first < p->tok; first++) {
        memcpy(text, first->p, first->n);
        text += first->n;
    }
    return EW_OK;
}

static bool is_keyword(const ew__token *t)
{
    static const char *const words[] = {"and", "or", "not", "if", "else", "elif", "in", "is"};
    for (size_t i = 0; i < EW_COUNT(words); i++) {
        if (token_is(t, words[i])) {
            return true;
        }
    }
    return false;
}

static ew_status parse_name(parser *p, ew__node **ret)
{
    static const struct {
        const char *name;
        ew__kind kind;
        bool b;
    } constants[] = {{"true", EW__BOOL, true},   {"True", EW__BOOL, true},        {"false", EW__BOOL, false},
                     {"False", EW__BOOL, false}, {"none", EW__NONE_VALUE, false}, {"None", EW__NONE_VALUE, false}};
    const ew__token *t = p->tok;
    if (is_keyword(t)) {
        return fail_at(p, t, EW_ECORRUPT, "an expression is expected before", t->p, t->n);
    }
    p->tok++;
    for (size_t i = 0; i < EW_COUNT(constants); i++) {
        if (token_is(t, constants[i].name)) {
            EW_TRY(new_node(p, EW__N_CONST, t, ret));
            (*ret)->val = (ew__val){.kind = constants[i].kind, .u.b = constants[i].b};
            return EW_OK;
        }
    }
    EW_TRY(new_node(p, EW__N_NAME, t, ret));
    return set_symbol(p, *ret, t);
}

static ew_status parse_primary(parser *p, ew__node **ret)
{
    const ew__token *t = p->tok;
    switch (t->type) {
    case EW__T_NAME:
        return parse_name(p, ret);
    case EW__T_STR:
        return parse_string(p, ret);
    case EW__T_INT:
    case EW__T_FLOAT:
        p->tok++;
        EW_TRY(new_node(p, EW__N_CONST, t, ret));
        (*ret)->val = t->type == EW__T_INT ? ew__int(t->u.i) : ew__float(t->u.f);
        return EW_OK;
    default:
        break;
    }
    if (is_op(p, EW__OP_LBRACKET)) {
        return parse_list(p, ret);
    }
    if (is_op(p, EW__OP_LBRACE)) {
        return parse_dict(p, ret);
    }
    if (skip_op(p, EW__OP_LPAREN)) {
        EW_TRY(parse_tuple(p, false, true, NULL, ret));
        return expect_op(p, EW__OP_RPAREN, "')' is expected");
    }
    return syntax(p, "an expression is expected");
}

/* Arguments from '(' on; keywords are KEYWORD nodes. */
static ew_status parse_args(parser *p, ew__node **ret_first)
{
    ew__node **tail = ret_first;
    bool any = false;
    bool keywords = false;
    EW_TRY(expect_op(p, EW__OP_LPAREN, "'(' is expected"));
    while (!is_op(p, EW__OP_RPAREN)) {
        ew__node *n = NULL;
        if (any) {
            EW_TRY(expect_op(p, EW__OP_COMMA, "',' or ')' is expected after an argument"));
            if (is_op(p, EW__OP_RPAREN)) {
                break;
            }
        }
        any = true;
        if (is_op(p, EW__OP_MUL) || is_op(p, EW__OP_POW)) {
            return fail_at(p, p->tok, EW_EUNSUPPORTED, "arguments by '*' or '**'", NULL, 0);
        }
        if (p->tok->type == EW__T_NAME && p->tok[1].type == EW__T_OP && p->tok[1].op == EW__OP_ASSIGN) {
            EW_TRY(new_node(p, EW__N_KEYWORD, p->tok, &n));
            EW_TRY(set_symbol(p, n, p->tok));
            p->tok += 2;
            EW_TRY(parse_expr(p, &n->a));
            keywords = true;
        } else if (keywords) {
            return syntax(p, "an argument by place behind one by name");
        } else {
            EW_TRY(parse_expr(p, &n));
        }
        append(&tail, n);
    }
    p->tok++;
    return EW_OK;
}

/* What stands between '[' and ']' or ',': an index or a slice. */
static ew_status parse_index(parser *p, ew__node **ret)
{
    const ew__token *at = p->tok;
    ew__node *part[3] = {0};
    bool slice = false;
    for (size_t i = 0; i < 3; i++) {
        if (!is_op(p, EW__OP_COLON) && !is_op(p, EW__OP_RBRACKET) && !is_op(p, EW__OP_COMMA)) {
            EW_TRY(parse_expr(p, &part[i]));
        }
        if (i == 2 || !skip_op(p, EW__OP_COLON)) {
            break;
        }
        slice = true;
    }
    if (!slice) {
        *ret = part[0];
        return part[0] != NULL ? EW_OK : syntax(p, "an index is expected");
    }
    EW_TRY(new_node(p, EW__N_SLICE, at, ret));
    (*ret)->a = part[0];
    (*ret)->b = part[1];
    (*ret)->c = part[2];
    return EW_OK;
}

static ew_status parse_subscript(parser *p, ew__node **node)
{
    const ew__token *at = p->tok++;
    ew__node *n = NULL;
    if (at->op == EW__OP_LBRACKET) {
        EW_TRY(new_node(p, EW__N_ITEM, at, &n));
        EW_TRY(parse_index(p, &n->b));
        if (is_op(p, EW__OP_COMMA)) {
            return fail_at(p, p->tok, EW_EUNSUPPORTED, "an index of several values", NULL, 0);
        }
        EW_TRY(expect_op(p, EW__OP_RBRACKET, "']' is expected"));
    } else if (p->tok->type == EW__T_NAME) {
        EW_TRY(new_node(p, EW__N_ATTR, p->tok, &n));
        EW_TRY(set_symbol(p, n, p->tok++));
    } else if (p->tok->type == EW__T_INT) {
        EW_TRY(new_node(p, EW__N_ITEM, p->tok, &n));
        EW_TRY(new_node(p, EW__N_CONST, p->tok, &n->b));
        n->b->val = ew__int(p->tok++->u.i);
    } else {
        return syntax(p, "a name is expected behind '.'");
    }
    n->a = *node;
    *node = n;
    return EW_OK;
}

static ew_status parse_call(parser *p, ew__node **node)
{
    ew__node *n = NULL;
    EW_TRY(new_node(p, EW__N_CALL, p->tok, &n));
    EW_TRY(parse_args(p, &n->b));
    n->a = *node;
    *node = n;
    return EW_OK;
}

static ew_status parse_postfix(parser *p, ew__node **node)
{
    unsigned before = p->depth;
    for (;;) {
        if (is_op(p, EW__OP_DOT) || is_op(p, EW__OP_LBRACKET)) {
            EW_TRY(parse_subscript(p, node));
        } else if (is_op(p, EW__OP_LPAREN)) {
            EW_TRY(parse_call(p, node));
        } else {
            break;
        }
        EW_TRY(enter(p)); /* the tree grows to the left */
    }
    p->depth = before;
    return EW_OK;
}

/* The name of a filter or test, with dots: a token over all of it. */
static ew_status parse_dotted(parser *p, ew__token *ret)
{
    const ew__token *t = NULL;
    EW_TRY(expect_name(p, &t));
    *ret = *t;
    while (is_op(p, EW__OP_DOT)) {
        p->tok++;
        EW_TRY(expect_name(p, &t));
        ret->n = (size_t)(t->p + t->n - ret->p);
    }
    return EW_OK;
}

static ew_status parse_filter(parser *p, ew__node **node)
{
    ew__node *n = NULL;
    ew__token name;
    EW_TRY(parse_dotted(p, &name));
    EW_TRY(new_node(p, EW__N_FILTER, &name, &n));
    n->val = ew__text_n(name.p, name.n);
    if (is_op(p, EW__OP_LPAREN)) {
        EW_TRY(parse_args(p, &n->b));
    }
    n->a = *node;
    *node = n;
    return EW_OK;
}

static bool starts_test_argument(const parser *p)
{
    const ew__token *t = p->tok;
    if (t->type == EW__T_NAME) {
        return !token_is(t, "else") && !token_is(t, "or") && !token_is(t, "and") && !is_keyword(t);
    }
    return t->type == EW__T_STR || t->type == EW__T_INT || t->type == EW__T_FLOAT || is_op(p, EW__OP_LBRACKET) ||
           is_op(p, EW__OP_LBRACE);
}

static ew_status parse_test(parser *p, ew__node **node)
{
    ew__node *n = NULL;
    ew__token name;
    bool negated = skip_name(p, "not");
    EW_TRY(parse_dotted(p, &name));
    EW_TRY(new_node(p, EW__N_TEST, &name, &n));
    n->val = ew__text_n(name.p, name.n);
    n->a = *node;
    if (is_op(p, EW__OP_LPAREN)) {
        EW_TRY(parse_args(p, &n->b));
    } else if (is_name(p, "is")) {
        return syntax(p, "tests in a row; join them with 'and'");
    } else if (starts_test_argument(p)) {
        EW_TRY(parse_primary(p, &n->b));
        EW_TRY(parse_postfix(p, &n->b));
    }
    if (negated) {
        ew__node *not_node = NULL;
        EW_TRY(new_node(p, EW__N_NOT, &name, &not_node));
        not_node->a = n;
        n = not_node;
    }
    *node = n;
    return EW_OK;
}

static ew_status parse_filters(parser *p, ew__node **node)
{
    unsigned before = p->depth;
    for (;;) {
        if (skip_op(p, EW__OP_PIPE)) {
            EW_TRY(parse_filter(p, node));
        } else if (skip_name(p, "is")) {
            EW_TRY(parse_test(p, node));
        } else if (is_op(p, EW__OP_LPAREN)) {
            EW_TRY(parse_call(p, node));
        } else {
            break;
        }
        EW_TRY(enter(p));
    }
    p->depth = before;
    return EW_OK;
}

static ew_status parse_unary(parser *p, bool with_filter, ew__node **ret)
{
    const ew__token *t = p->tok;
    EW_TRY(enter(p));
    if (skip_op(p, EW__OP_SUB) || skip_op(p, EW__OP_ADD)) {
        EW_TRY(new_node(p, t->op == EW__OP_SUB ? EW__N_NEG : EW__N_POS, t, ret));
        EW_TRY(parse_unary(p, false, &(*ret)->a));
    } else {
        EW_TRY(parse_primary(p, ret));
    }
    EW_TRY(parse_postfix(p, ret));
    if (with_filter) {
        EW_TRY(parse_filters(p, ret));
    }
    p->depth--;
    return EW_OK;
}

/* Operators of one level, from the left: what the next level is, and which operators. */
typedef ew_status (*level_fn)(parser *p, ew__node **ret);

static ew_status parse_binary(parser *p, level_fn next, const ew__op *ops, size_t n_ops, ew__node **ret)
{
    unsigned before = p->depth;
    EW_TRY(next(p, ret));
    for (;;) {
        const ew__token *t = p->tok;
        size_t i = 0;
        while (i < n_ops && !is_op(p, ops[i])) {
            i++;
        }
        if (i == n_ops) {
            p->depth = before;
            return EW_OK;
        }
        ew__node *n = NULL;
        EW_TRY(enter(p));
        p->tok++;
        EW_TRY(new_node(p, EW__N_BINARY, t, &n));
        n->op = t->op;
        n->a = *ret;
        EW_TRY(next(p, &n->b));
        *ret = n;
    }
}

static ew_status level_unary(parser *p, ew__node **ret)
{
    return parse_unary(p, true, ret);
}

static ew_status parse_pow(parser *p, ew__node **ret)
{
    static const ew__op ops[] = {EW__OP_POW};
    return parse_binary(p, level_unary, ops, 1, ret);
}

static ew_status parse_mul(parser *p, ew__node **ret)
{
    static const ew__op ops[] = {EW__OP_MUL, EW__OP_DIV, EW__OP_FLOORDIV, EW__OP_MOD};
    return parse_binary(p, parse_pow, ops, EW_COUNT(ops), ret);
}

static ew_status parse_concat(parser *p, ew__node **ret)
{
    EW_TRY(parse_mul(p, ret));
    if (!is_op(p, EW__OP_TILDE)) {
        return EW_OK;
    }
    ew__node *n = NULL;
    EW_TRY(new_node(p, EW__N_CONCAT, p->tok, &n));
    n->a = *ret;
    ew__node **tail = &n->a->next;
    while (skip_op(p, EW__OP_TILDE)) {
        ew__node *x = NULL;
        EW_TRY(parse_mul(p, &x));
        append(&tail, x);
    }
    *ret = n;
    return EW_OK;
}

static ew_status parse_add(parser *p, ew__node **ret)
{
    static const ew__op ops[] = {EW__OP_ADD, EW__OP_SUB};
    return parse_binary(p, parse_concat, ops, EW_COUNT(ops), ret);
}

/* The comparison that begins here, NONE when none does; moves behind it. */
static ew__op comparison(parser *p)
{
    const ew__token *t = p->tok;
    if (t->type == EW__T_OP && t->op >= EW__OP_EQ && t->op <= EW__OP_GE) {
        p->tok++;
        return t->op;
    }
    if (skip_name(p, "in")) {
        return EW__OP_IN;
    }
    if (token_is(t, "not") && token_is(t + 1, "in")) {
        p->tok += 2;
        return EW__OP_NOT_IN;
    }
    return EW__OP_NONE;
}

static ew_status parse_compare(parser *p, ew__node **ret)
{
    const ew__token *at = p->tok;
    ew__op op;
    ew__node *n = NULL;
    ew__node **tail = NULL;
    EW_TRY(parse_add(p, ret));
    while (at = p->tok, (op = comparison(p)) != EW__OP_NONE) {
        ew__node *x = NULL;
        if (n == NULL) {
            EW_TRY(new_node(p, EW__N_COMPARE, at, &n));
            n->a = *ret;
            tail = &n->b;
            *ret = n;
        }
        EW_TRY(new_node(p, EW__N_OPERAND, at, &x));
        x->op = op;
        EW_TRY(parse_add(p, &x->a));
        append(&tail, x);
    }
    return EW_OK;
}

static ew_status parse_not(parser *p, ew__node **ret)
{
    const ew__token *t = p->tok;
    if (!skip_name(p, "not")) {
        return parse_compare(p, ret);
    }
    EW_TRY(enter(p));
    EW_TRY(new_node(p, EW__N_NOT, t, ret));
    EW_TRY(parse_not(p, &(*ret)->a));
    p->depth--;
    return EW_OK;
}

static ew_status parse_logic(parser *p, level_fn next, const char *word, ew__node_type type, ew__node **ret)
{
    unsigned before = p->depth;
    EW_TRY(next(p, ret));
    for (;;) {
        const ew__token *t = p->tok;
        if (!skip_name(p, word)) {
            p->depth = before;
            return EW_OK;
        }
        ew__node *n = NULL;
        EW_TRY(enter(p));
        EW_TRY(new_node(p, type, t, &n));
        n->a = *ret;
        EW_TRY(next(p, &n->b));
        *ret = n;
    }
}

static ew_status parse_and(parser *p, ew__node **ret)
{
    return parse_logic(p, parse_not, "and", EW__N_AND, ret);
}

static ew_status parse_or(parser *p, ew__node **ret)
{
    return parse_logic(p, parse_and, "or", EW__N_OR, ret);
}

static ew_status parse_expr(parser *p, ew__node **ret)
{
    unsigned before = p->depth;
    EW_TRY(enter(p));
    EW_TRY(parse_or(p, ret));
    for (;;) {
        const ew__token *t = p->tok;
        if (!skip_name(p, "if")) {
            p->depth = before;
            return EW_OK;
        }
        ew__node *n = NULL;
        EW_TRY(enter(p));
        EW_TRY(new_node(p, EW__N_COND, t, &n));
        n->b = *ret;
        EW_TRY(parse_or(p, &n->a));
        if (skip_name(p, "else")) {
            EW_TRY(parse_expr(p, &n->c));
        }
        *ret = n;
    }
}

/* ---- statements ---- */

static ew_status parse_body(parser *p, const char *const *ends, ew__node **ret);

static ew_status expect_block_end(parser *p)
{
    if (p->tok->type != EW__T_BLOCK_END) {
        return syntax(p, "the end of the tag is expected");
    }
    p->tok++;
    return EW_OK;
}

/* The rest of the tag, the body, and the end tag with its name; p->tok is behind that name. */
static ew_status block_body(parser *p, const char *const *ends, ew__node **ret)
{
    EW_TRY(expect_block_end(p));
    return parse_body(p, ends, ret);
}

static ew_status whole_body(parser *p, const char *end, ew__node **ret)
{
    const char *const ends[] = {end, NULL};
    EW_TRY(block_body(p, ends, ret));
    p->tok++;
    return EW_OK;
}

static ew_status parse_target(parser *p, bool attrs, ew__node **ret);

static ew_status parse_target_one(parser *p, bool attrs, ew__node **ret)
{
    const ew__token *t = p->tok;
    if (skip_op(p, EW__OP_LPAREN)) {
        EW_TRY(enter(p));
        EW_TRY(parse_target(p, attrs, ret));
        p->depth--;
        return expect_op(p, EW__OP_RPAREN, "')' is expected");
    }
    EW_TRY(expect_name(p, &t));
    if (is_keyword(t)) {
        return fail_at(p, t, EW_ECORRUPT, "cannot assign to", t->p, t->n);
    }
    EW_TRY(new_node(p, EW__N_NAME, t, ret));
    EW_TRY(set_symbol(p, *ret, t));
    if (attrs && skip_op(p, EW__OP_DOT)) {
        ew__node *n = NULL;
        EW_TRY(expect_name(p, &t));
        EW_TRY(new_node(p, EW__N_ATTR, t, &n));
        EW_TRY(set_symbol(p, n, t));
        n->a = *ret;
        *ret = n;
    }
    return EW_OK;
}

static ew_status parse_target(parser *p, bool attrs, ew__node **ret)
{
    const ew__token *at = p->tok;
    EW_TRY(parse_target_one(p, attrs, ret));
    if (!is_op(p, EW__OP_COMMA)) {
        return EW_OK;
    }
    ew__node *tuple = NULL;
    EW_TRY(new_node(p, EW__N_TUPLE, at, &tuple));
    tuple->a = *ret;
    ew__node **tail = &tuple->a->next;
    while (skip_op(p, EW__OP_COMMA)) {
        ew__node *n = NULL;
        if ((p->tok->type != EW__T_NAME && !is_op(p, EW__OP_LPAREN)) || is_name(p, "in")) {
            break;
        }
        EW_TRY(parse_target_one(p, attrs, &n));
        append(&tail, n);
    }
    *ret = tuple;
    return EW_OK;
}

static ew_status parse_if(parser *p, ew__node *n)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const end[] = {"endif", NULL};
    for (;;) {
        EW_TRY(parse_tuple(p, true, false, NULL, &n->a));
        EW_TRY(block_body(p, ends, &n->c));
        const ew__token *t = p->tok++;
        if (token_is(t, "elif")) {
            EW_TRY(new_node(p, EW__N_IF, t, &n->b));
            n = n->b;
            continue;
        }
        if (token_is(t, "else")) {
            EW_TRY(block_body(p, end, &n->d));
            p->tok++;
        }
        return EW_OK;
    }
}

static ew_status parse_for(parser *p, ew__node *n)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    EW_TRY(parse_target(p, false, &n->a));
    if (!skip_name(p, "in")) {
        return syntax(p, "'in' is expected");
    }
    EW_TRY(parse_tuple(p, true, false, "recursive", &n->b));
    if (skip_name(p, "if")) {
        EW_TRY(parse_expr(p, &n->e));
    }
    if (is_name(p, "recursive")) {
        return fail_at(p, p->tok, EW_EUNSUPPORTED, "a recursive loop", NULL, 0);
    }
    p->loops++;
    EW_TRY(block_body(p, ends, &n->c));
    p->loops--;
    if (skip_name(p, "else")) {
        return whole_body(p, "endfor", &n->d);
    }
    p->tok++;
    return EW_OK;
}

static ew_status parse_set(parser *p, ew__node *n)
{
    EW_TRY(parse_target(p, true, &n->a));
    if (skip_op(p, EW__OP_ASSIGN)) {
        return parse_tuple(p, false, false, NULL, &n->b);
    }
    n->type = EW__N_SET_BLOCK;
    while (skip_op(p, EW__OP_PIPE)) {
        EW_TRY(parse_filter(p, &n->b));
    }
    return whole_body(p, "endset", &n->c);
}

static ew_status parse_params(parser *p, ew__node **ret)
{
    ew__node **tail = ret;
    bool defaults = false;
    EW_TRY(expect_op(p, EW__OP_LPAREN, "'(' is expected"));
    while (!is_op(p, EW__OP_RPAREN)) {
        const ew__token *t = NULL;
        ew__node *n = NULL;
        if (*ret != NULL) {
            EW_TRY(expect_op(p, EW__OP_COMMA, "',' or ')' is expected"));
        }
        EW_TRY(expect_name(p, &t));
        EW_TRY(new_node(p, EW__N_PARAM, t, &n));
        EW_TRY(set_symbol(p, n, t));
        if (skip_op(p, EW__OP_ASSIGN)) {
            EW_TRY(parse_expr(p, &n->a));
            defaults = true;
        } else if (defaults) {
            return syntax(p, "a parameter without default behind one with");
        }
        append(&tail, n);
    }
    p->tok++;
    return EW_OK;
}

static ew_status parse_macro(parser *p, ew__node *n)
{
    const ew__token *t = NULL;
    unsigned loops = p->loops;
    EW_TRY(expect_name(p, &t));
    EW_TRY(set_symbol(p, n, t));
    EW_TRY(parse_params(p, &n->a));
    p->loops = 0;
    EW_TRY(whole_body(p, "endmacro", &n->c));
    p->loops = loops;
    return EW_OK;
}

static ew_status parse_call_block(parser *p, ew__node *n)
{
    unsigned loops = p->loops;
    if (is_op(p, EW__OP_LPAREN)) {
        EW_TRY(parse_params(p, &n->b));
    }
    EW_TRY(parse_expr(p, &n->a));
    if (n->a->type != EW__N_CALL) {
        return syntax(p, "a call is expected");
    }
    p->loops = 0;
    EW_TRY(whole_body(p, "endcall", &n->c));
    p->loops = loops;
    return EW_OK;
}

static ew_status parse_filter_block(parser *p, ew__node *n)
{
    do {
        EW_TRY(parse_filter(p, &n->b));
    } while (skip_op(p, EW__OP_PIPE));
    return whole_body(p, "endfilter", &n->c);
}

static ew_status parse_generation(parser *p, ew__node *n)
{
    unsigned loops = p->loops;
    p->loops = 0;
    EW_TRY(whole_body(p, "endgeneration", &n->c));
    p->loops = loops;
    return EW_OK;
}

static ew_status parse_with(parser *p, ew__node *n)
{
    ew__node **tail = &n->a;
    while (p->tok->type != EW__T_BLOCK_END) {
        ew__node *x = NULL;
        if (n->a != NULL) {
            EW_TRY(expect_op(p, EW__OP_COMMA, "',' is expected"));
        }
        EW_TRY(new_node(p, EW__N_SET, p->tok, &x));
        EW_TRY(parse_target_one(p, false, &x->a));
        EW_TRY(expect_op(p, EW__OP_ASSIGN, "'=' is expected"));
        EW_TRY(parse_expr(p, &x->b));
        append(&tail, x);
    }
    return whole_body(p, "endwith", &n->c);
}

static ew_status parse_jump(parser *p, ew__node *n)
{
    return p->loops > 0 ? (void)n, EW_OK : syntax(p, "outside of a loop");
}

static ew_status parse_statement(parser *p, ew__node **ret)
{
    static const struct {
        const char *name;
        ew__node_type type;
        ew_status (*parse)(parser *p, ew__node *n);
    } known[] = {{"if", EW__N_IF, parse_if},
                 {"for", EW__N_FOR, parse_for},
                 {"set", EW__N_SET, parse_set},
                 {"macro", EW__N_MACRO, parse_macro},
                 {"call", EW__N_CALL_BLOCK, parse_call_block},
                 {"filter", EW__N_FILTER_BLOCK, parse_filter_block},
                 {"with", EW__N_WITH, parse_with},
                 {"generation", EW__N_SCOPE, parse_generation},
                 {"break", EW__N_BREAK, parse_jump},
                 {"continue", EW__N_CONTINUE, parse_jump}};
    const ew__token *t = p->tok;
    if (t->type != EW__T_NAME) {
        return syntax(p, "the name of a statement is expected");
    }
    for (size_t i = 0; i < EW_COUNT(known); i++) {
        if (token_is(t, known[i].name)) {
            p->tok++;
            EW_TRY(enter(p));
            EW_TRY(new_node(p, known[i].type, t, ret));
            EW_TRY(known[i].parse(p, *ret));
            p->depth--;
            return expect_block_end(p);
        }
    }
    if (t->n > 3 && memcmp(t->p, "end", 3) == 0) {
        return fail_at(p, t, EW_ECORRUPT, "nothing is open that ends with", t->p, t->n);
    }
    return fail_at(p, t, EW_EUNSUPPORTED, "this build does not know the statement", t->p, t->n);
}

static bool at_end_name(const parser *p, const char *const *ends)
{
    for (size_t i = 0; ends != NULL && ends[i] != NULL && i < END_NAMES_MAX; i++) {
        if (token_is(p->tok, ends[i])) {
            return true;
        }
    }
    return false;
}

/* Up to a tag with one of these names (p->tok on the name), or to the end when ends is NULL. */
static ew_status parse_body(parser *p, const char *const *ends, ew__node **ret)
{
    ew__node **tail = ret;
    const ew__token *begin = p->tok;
    for (;;) {
        const ew__token *t = p->tok++;
        ew__node *n = NULL;
        if (t->type == EW__T_DATA) {
            EW_TRY(new_node(p, EW__N_TEXT, t, &n));
            n->val = ew__text_n(t->p, t->n);
        } else if (t->type == EW__T_VAR_BEGIN) {
            EW_TRY(new_node(p, EW__N_OUTPUT, t, &n));
            EW_TRY(parse_tuple(p, false, false, NULL, &n->a));
            if (p->tok->type != EW__T_VAR_END) {
                return syntax(p, "the end of the expression is expected");
            }
            p->tok++;
        } else if (t->type == EW__T_BLOCK_BEGIN) {
            if (at_end_name(p, ends)) {
                return EW_OK;
            }
            EW_TRY(parse_statement(p, &n));
        } else if (ends == NULL) {
            return EW_OK;
        } else {
            char what[64];
            while (ends[1] != NULL) {
                ends++;
            }
            (void)snprintf(what, sizeof(what), "a tag is not closed: '%s' is missing", ends[0]);
            return fail_at(p, begin, EW_ECORRUPT, what, NULL, 0);
        }
        append(&tail, n);
    }
}

ew_status ew__parse(ew_chat_template *t, const ew__token *tokens, size_t n, ew_error *reterr)
{
    parser p = {.t = t, .tok = tokens, .err = reterr};
    EW_ASSERT(n > 0 && tokens[n - 1].type == EW__T_END);
    return parse_body(&p, NULL, &t->body);
}
