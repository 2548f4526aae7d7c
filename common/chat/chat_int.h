/* Shared by the files of this module: values, the syntax tree, the state of one rendering.
 *
 * Values live in the rendering's region and are never freed one by one. A string carries a mask: NULL = all of it is the
 * template's, ew__all_content = all of it is content, else one byte per byte (1 = content).
 * Python is the reference for every operation: functions are named after what they do there. */
#ifndef EW_CHAT_CHAT_INT_H
#define EW_CHAT_CHAT_INT_H

#include "base/limits.h"
#include "base/map.h"
#include "chat/chat.h"

/* ---- memory ---- */

typedef struct ew__chunk ew__chunk;
/* Blocks taken from a growing list of chunks, freed together. */
typedef struct ew__region {
    ew__chunk *chunks;
    char *at;
    size_t left;  /* bytes behind at */
    size_t total; /* bytes of all chunks */
    size_t max;
} ew__region;
/* 16-byte aligned, not initialised; NULL past max or when memory is out. */
void *ew__region_take(ew__region *g, size_t n, size_t size);
void ew__region_release(ew__region *g);

/* ---- values ---- */

typedef enum ew__kind {
    EW__ABSENT, /* an argument that was not given */
    EW__UNDEFINED,
    EW__NONE_VALUE,
    EW__BOOL,
    EW__INT,
    EW__FLOAT,
    EW__STR,
    EW__LIST,
    EW__DICT,
    EW__NAMESPACE,
    EW__FUNCTION,
    EW__METHOD,
    EW__MACRO,
    EW__LOOP
} ew__kind;

typedef enum ew__list_kind {
    EW__LIST_LIST,
    EW__LIST_TUPLE,
    EW__LIST_RANGE,
    EW__LIST_VIEW,     /* dict.items() and its like */
    EW__LIST_GENERATOR /* can be gone through once */
} ew__list_kind;

extern const uint8_t ew__all_content[1];

typedef struct ew__str {
    const char *p;
    const uint8_t *mask;
    size_t n; /* bytes */
} ew__str;

typedef struct ew__list ew__list;
typedef struct ew__dict ew__dict;
typedef struct ew__macro ew__macro;
typedef struct ew__method ew__method;
typedef struct ew__loop ew__loop;

typedef struct ew__val {
    ew__kind kind;
    bool markup; /* STR: made by safe or escape */
    union {
        bool b;
        int64_t i; /* INT; FUNCTION: its number */
        double f;
        ew__str s; /* STR; UNDEFINED: the name that was looked up */
        ew__list *list;
        ew__dict *dict; /* DICT, NAMESPACE */
        ew__macro *macro;
        ew__method *method;
        ew__loop *loop;
    } u;
} ew__val;

struct ew__list {
    ew__list_kind kind;
    size_t n, cap;
    size_t gone; /* GENERATOR: items that were taken */
    ew__val *v;
};

typedef struct ew__pair {
    ew__val k, v;
} ew__pair;

struct ew__dict {
    size_t n, cap;
    ew__pair *e;
};

/* ---- syntax tree ---- */

typedef enum ew__node_type {
    /* Expressions. Lists of nodes are linked by next. */
    EW__N_CONST,   /* val */
    EW__N_NAME,    /* sym */
    EW__N_LIST,    /* a: items */
    EW__N_TUPLE,   /* a: items */
    EW__N_DICT,    /* a: key, value, key, value, … */
    EW__N_ATTR,    /* a: object, val: name, sym */
    EW__N_ITEM,    /* a: object, b: index or SLICE */
    EW__N_SLICE,   /* a: start, b: stop, c: step, each may be NULL */
    EW__N_CALL,    /* a: callee, b: arguments */
    EW__N_KEYWORD, /* an argument by name: val, sym, a */
    EW__N_FILTER,  /* a: input (NULL: the block's text), val: name, b: arguments */
    EW__N_TEST,    /* a: operand, val: name, b: arguments */
    EW__N_NEG,
    EW__N_POS,
    EW__N_NOT,
    EW__N_BINARY, /* op, a, b */
    EW__N_AND,
    EW__N_OR,
    EW__N_CONCAT,  /* a: operands */
    EW__N_COMPARE, /* a: first, b: OPERANDs */
    EW__N_OPERAND, /* op, a */
    EW__N_COND,    /* a: condition, b: then, c: else or NULL */
    /* Statements; body lists are linked by next. */
    EW__N_TEXT,         /* val */
    EW__N_OUTPUT,       /* a */
    EW__N_IF,           /* a: condition, c: body, b: next elif (IF) or NULL, d: else body */
    EW__N_FOR,          /* a: target, b: what, e: filter or NULL, c: body, d: else body */
    EW__N_SET,          /* a: target, b: value */
    EW__N_SET_BLOCK,    /* a: target, b: filters or NULL, c: body */
    EW__N_MACRO,        /* sym, a: PARAMs, c: body */
    EW__N_PARAM,        /* sym, a: default or NULL */
    EW__N_CALL_BLOCK,   /* a: CALL, b: PARAMs, c: body */
    EW__N_FILTER_BLOCK, /* b: filters, c: body */
    EW__N_SCOPE,        /* c: body */
    EW__N_WITH,         /* a: SETs, c: body */
    EW__N_BREAK,
    EW__N_CONTINUE
} ew__node_type;

/* Operators, as the lexer has them. */
typedef enum ew__op {
    EW__OP_NONE,
    EW__OP_ADD,
    EW__OP_SUB,
    EW__OP_MUL,
    EW__OP_DIV,
    EW__OP_FLOORDIV,
    EW__OP_MOD,
    EW__OP_POW,
    EW__OP_TILDE,
    EW__OP_EQ,
    EW__OP_NE,
    EW__OP_LT,
    EW__OP_LE,
    EW__OP_GT,
    EW__OP_GE,
    EW__OP_IN,
    EW__OP_NOT_IN,
    EW__OP_ASSIGN,
    EW__OP_DOT,
    EW__OP_COLON,
    EW__OP_COMMA,
    EW__OP_SEMICOLON,
    EW__OP_PIPE,
    EW__OP_LPAREN,
    EW__OP_RPAREN,
    EW__OP_LBRACKET,
    EW__OP_RBRACKET,
    EW__OP_LBRACE,
    EW__OP_RBRACE
} ew__op;

typedef struct ew__node ew__node;
struct ew__node {
    ew__node_type type;
    ew__op op;
    uint32_t line, col; /* from 1 */
    int32_t sym;
    ew__node *next;
    ew__node *a, *b, *c, *d, *e;
    ew__val val;
};

typedef enum ew__token_type {
    EW__T_END,
    EW__T_DATA,
    EW__T_VAR_BEGIN,
    EW__T_VAR_END,
    EW__T_BLOCK_BEGIN,
    EW__T_BLOCK_END,
    EW__T_NAME,
    EW__T_STR,
    EW__T_INT,
    EW__T_FLOAT,
    EW__T_OP
} ew__token_type;

typedef struct ew__token {
    ew__token_type type;
    ew__op op;
    uint32_t line, col;
    const char *p; /* NAME, DATA; STR: unescaped */
    size_t n;
    union {
        int64_t i;
        double f;
    } u;
} ew__token;

struct ew_chat_template {
    ew__region mem;
    ew__node *body;
    ew_map *symbols;   /* name -> symbol + 1 */
    const char **name; /* [n_symbols] */
    size_t n_symbols;
    size_t symbols_cap;
};

/* source: newlines already "\n". The tokens are in g. */
ew_status ew__lex(const char *source, size_t size, ew__region *g, const ew__token **ret_tokens, size_t *ret_n,
                  ew_error *reterr) EW_MUST_CHECK;
ew_status ew__parse(ew_chat_template *t, const ew__token *tokens, size_t n, ew_error *reterr) EW_MUST_CHECK;
/* -1: the template does not have it. */
int32_t ew__symbol(const ew_chat_template *t, const char *name);
ew_status ew__symbol_add(ew_chat_template *t, const char *name, size_t n, int32_t *ret, ew_error *reterr) EW_MUST_CHECK;

/* ---- one rendering ---- */

typedef struct ew__scope ew__scope;
struct ew__scope {
    ew__scope *up;
    size_t n, cap;
    struct ew__binding {
        int32_t sym;
        ew__val v;
    } * b;
};

struct ew__macro {
    const ew__node *params, *body;
    const char *name;
    ew__scope *scope; /* where it was defined */
    ew__val caller;   /* ABSENT but in a call block's macro */
};

struct ew__method {
    ew__val self;
    const char *name;
};

typedef struct ew__run ew__run;
struct ew__loop {
    const ew__node *node;
    ew__list *source;
    size_t scan;     /* items of source looked at */
    ew__list *items; /* those that the filter let through; source itself when there is none */
    size_t i;        /* the present one */
    ew__scope *outer;
};

typedef enum ew__flow {
    EW__FLOW_ON,
    EW__FLOW_BREAK,
    EW__FLOW_CONTINUE
} ew__flow;

/* A string that was built lately and has room behind its end, for `s = s + t` without copying s. */
#define EW__TAILS 4
typedef struct ew__tail {
    char *p;
    uint8_t *mask;
    size_t n, cap;
} ew__tail;

struct ew__run {
    const ew_chat_template *t;
    const struct tm *now;
    ew__region mem;
    ew_buf out, mask; /* the text so far and its marks; captures are its end */
    ew__tail tail[EW__TAILS];
    uint64_t steps, max_steps;
    uint32_t depth;
    const ew__node *at; /* for messages */
    ew__scope *scope;
    ew__scope *globals;
    ew__flow flow;
    uint64_t n_macros; /* made so far: they keep the scopes around them */
    ew_error *err;
};

typedef struct ew__args {
    const ew__val *v; /* [n] */
    size_t n;
    const ew__pair *kw; /* [n_kw], keys are strings */
    size_t n_kw;
} ew__args;

/* Fails with the place in the template. */
ew_status ew__fail(ew__run *r, ew_status code, const char *fmt, ...) EW_PRINTF(3, 4);
/* One step and what handling bytes costs. */
ew_status ew__charge(ew__run *r, size_t bytes) EW_MUST_CHECK;
/* Recursion: every enter that succeeds is paired with a leave. */
ew_status ew__enter(ew__run *r) EW_MUST_CHECK;
void ew__leave(ew__run *r);
ew_status ew__take(ew__run *r, size_t n, size_t size, void **ret) EW_MUST_CHECK;

/* Strings under construction. The first failure is kept and given by done. */
typedef struct ew__sb {
    ew__run *r;
    char *p;
    uint8_t *mask; /* NULL while all is the template's */
    size_t n, cap;
    ew_status st;
} ew__sb;
/* The first part of an empty builder: s, in its own place when there is room behind it. */
void ew__sb_begin(ew__sb *b, ew__str s);
void ew__sb_add(ew__sb *b, ew__str s);
void ew__sb_text(ew__sb *b, const char *s, bool content);
void ew__sb_cp(ew__sb *b, uint32_t cp, bool content);
ew_status ew__sb_done(ew__sb *b, ew__val *ret) EW_MUST_CHECK;

/* Strings */
ew__str ew__sub(ew__str s, size_t begin, size_t end); /* bytes */
bool ew__content_at(ew__str s, size_t i);
bool ew__content_any(ew__str s);
ew__val ew__text(const char *s); /* static text, the template's */
ew__val ew__text_n(const char *s, size_t n);
ew__val ew__of_str(ew__str s);
size_t ew__chars(ew__str s);
/* Byte offset of character i, n when past the end. */
size_t ew__char_offset(ew__str s, size_t i);
bool ew__is(ew__str s, const char *text);
bool ew__py_space(uint32_t cp);
/* Offset of needle at or after from, SIZE_MAX = none. */
size_t ew__find(ew__str s, ew__str needle, size_t from);

/* Values */
ew__val ew__undefined(ew__str name);
ew__val ew__none(void);
ew__val ew__bool(bool b);
ew__val ew__int(int64_t i);
ew__val ew__float(double f);
ew_status ew__new_list(ew__run *r, ew__list_kind kind, size_t cap, ew__val *ret) EW_MUST_CHECK;
ew_status ew__push(ew__run *r, ew__list *l, ew__val v) EW_MUST_CHECK;
ew_status ew__new_dict(ew__run *r, ew__kind kind, ew__val *ret) EW_MUST_CHECK;
/* *ret NULL when absent. */
ew_status ew__dict_find(ew__run *r, const ew__dict *d, ew__val key, ew__val **ret) EW_MUST_CHECK;
ew_status ew__dict_put(ew__run *r, ew__dict *d, ew__val key, ew__val v) EW_MUST_CHECK;
/* "str", "int", "list", … as Python says. */
const char *ew__type_name(const ew__val *v);
bool ew__truth(const ew__val *v);
ew_status ew__equal(ew__run *r, const ew__val *a, const ew__val *b, bool *ret) EW_MUST_CHECK;
/* *ret < 0, 0, > 0; EW_EINVAL for values without an order. */
ew_status ew__order(ew__run *r, const ew__val *a, const ew__val *b, int *ret) EW_MUST_CHECK;
ew_status ew__contains(ew__run *r, const ew__val *in, const ew__val *x, bool *ret) EW_MUST_CHECK;
/* What iterating gives, as a list of its own or a shared one that is not to be changed; takes what a generator has. */
ew_status ew__iterate(ew__run *r, const ew__val *v, ew__list **ret) EW_MUST_CHECK;
ew_status ew__length(ew__run *r, const ew__val *v, size_t *ret) EW_MUST_CHECK;
bool ew__is_number(const ew__val *v); /* also a bool */
double ew__as_float(const ew__val *v);
/* BOOL and INT. */
bool ew__as_int(const ew__val *v, int64_t *ret);
ew_status ew__from_json(ew__run *r, const json_t *j, bool message, ew__val *ret) EW_MUST_CHECK;

/* Text of values */
ew_status ew__str_of(ew__run *r, const ew__val *v, ew__val *ret) EW_MUST_CHECK;
ew_status ew__repr_to(ew__sb *b, const ew__val *v) EW_MUST_CHECK;
ew_status ew__to_json(ew__run *r, const ew__val *v, const ew__args *a, ew__val *ret) EW_MUST_CHECK;
ew_status ew__format_braces(ew__run *r, ew__str s, const ew__args *a, ew__val *ret) EW_MUST_CHECK;
ew_status ew__format_percent(ew__run *r, ew__str s, const ew__args *a, ew__val *ret) EW_MUST_CHECK;
ew_status ew__escape(ew__run *r, ew__str s, ew__val *ret) EW_MUST_CHECK;
typedef enum ew__case {
    EW__CASE_UPPER,
    EW__CASE_LOWER,
    EW__CASE_CAPITALIZE,
    EW__CASE_TITLE, /* str.title */
    EW__CASE_JTITLE /* Jinja's filter */
} ew__case;
ew_status ew__recase(ew__run *r, ew__str s, ew__case how, ew__val *ret) EW_MUST_CHECK;
/* left, right: which ends; chars ABSENT or NONE = whitespace. */
ew_status ew__strip(ew__run *r, ew__str s, const ew__val *chars, bool left, bool right, ew__val *ret) EW_MUST_CHECK;
ew_status ew__replace(ew__run *r, ew__str s, ew__str from, ew__str to, int64_t count, ew__val *ret) EW_MUST_CHECK;
ew_status ew__split_lines(ew__run *r, ew__str s, ew__list *out) EW_MUST_CHECK;
ew_status ew__join(ew__run *r, ew__str sep, const ew__list *l, bool any, ew__val *ret) EW_MUST_CHECK;

/* Evaluating */
ew_status ew__eval(ew__run *r, const ew__node *n, ew__val *ret) EW_MUST_CHECK;
ew_status ew__exec(ew__run *r, const ew__node *body) EW_MUST_CHECK;
ew_status ew__assign_name(ew__run *r, ew__scope *s, int32_t sym, ew__val v) EW_MUST_CHECK;
ew_status ew__new_scope(ew__run *r, ew__scope *up, ew__scope **ret) EW_MUST_CHECK;
ew_status ew__call(ew__run *r, const ew__val *f, const ew__args *a, ew__val *ret) EW_MUST_CHECK;
ew_status ew__call_macro(ew__run *r, ew__macro *m, const ew__args *a, ew__val *ret) EW_MUST_CHECK;
ew_status ew__get_attr(ew__run *r, const ew__val *v, ew__str name, ew__val *ret) EW_MUST_CHECK;
ew_status ew__get_item(ew__run *r, const ew__val *v, const ew__val *key, ew__val *ret) EW_MUST_CHECK;
ew_status ew__binary(ew__run *r, ew__op op, const ew__val *a, const ew__val *b, ew__val *ret) EW_MUST_CHECK;
ew_status ew__compare(ew__run *r, ew__op op, const ew__val *a, const ew__val *b, bool *ret) EW_MUST_CHECK;
ew_status ew__filter(ew__run *r, ew__str name, const ew__val *in, const ew__args *a, ew__val *ret) EW_MUST_CHECK;
ew_status ew__test(ew__run *r, ew__str name, const ew__val *in, const ew__args *a, bool *ret) EW_MUST_CHECK;
ew_status ew__loop_attr(ew__run *r, ew__loop *l, ew__str name, ew__val *ret) EW_MUST_CHECK;
ew_status ew__eval_args(ew__run *r, const ew__node *first, ew__args *ret) EW_MUST_CHECK;
/* Whether the method exists in Python (supported or not), and calling it. */
bool ew__has_method(const ew__val *v, ew__str name, const char **ret_name);
ew_status ew__call_method(ew__run *r, const ew__method *m, const ew__args *a, ew__val *ret) EW_MUST_CHECK;
/* The functions that every template has, into r->globals. */
ew_status ew__define_functions(ew__run *r) EW_MUST_CHECK;
ew_status ew__call_function(ew__run *r, int64_t number, const ew__args *a, ew__val *ret) EW_MUST_CHECK;
/* Arguments by place and name: out[n_names], ABSENT where not given. what is for messages. */
ew_status ew__bind_args(ew__run *r, const ew__args *a, const char *what, const char *const *names, size_t n_names,
                        size_t n_needed, ew__val *out) EW_MUST_CHECK;

#endif
