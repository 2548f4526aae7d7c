/* Tests ("x is y"), as jinja2/tests.py has them. */
#include <string.h>

#include "chat/chat_int.h"

typedef enum test_id {
    IS_DEFINED,
    IS_UNDEFINED,
    IS_NONE,
    IS_BOOLEAN,
    IS_TRUE,
    IS_FALSE,
    IS_INTEGER,
    IS_FLOAT,
    IS_NUMBER,
    IS_STRING,
    IS_MAPPING,
    IS_ITERABLE,
    IS_SEQUENCE,
    IS_CALLABLE,
    IS_ODD,
    IS_EVEN,
    IS_DIVISIBLEBY,
    IS_LOWER,
    IS_UPPER,
    IS_ESCAPED,
    IS_SAMEAS,
    IS_COMPARED /* and everything behind it in the table: op */
} test_id;

static const struct {
    const char *name;
    test_id id;
    ew__op op;
} tests[] = {{"defined", IS_DEFINED, EW__OP_NONE},
             {"undefined", IS_UNDEFINED, EW__OP_NONE},
             {"none", IS_NONE, EW__OP_NONE},
             {"boolean", IS_BOOLEAN, EW__OP_NONE},
             {"true", IS_TRUE, EW__OP_NONE},
             {"false", IS_FALSE, EW__OP_NONE},
             {"integer", IS_INTEGER, EW__OP_NONE},
             {"float", IS_FLOAT, EW__OP_NONE},
             {"number", IS_NUMBER, EW__OP_NONE},
             {"string", IS_STRING, EW__OP_NONE},
             {"mapping", IS_MAPPING, EW__OP_NONE},
             {"iterable", IS_ITERABLE, EW__OP_NONE},
             {"sequence", IS_SEQUENCE, EW__OP_NONE},
             {"callable", IS_CALLABLE, EW__OP_NONE},
             {"odd", IS_ODD, EW__OP_NONE},
             {"even", IS_EVEN, EW__OP_NONE},
             {"divisibleby", IS_DIVISIBLEBY, EW__OP_NONE},
             {"lower", IS_LOWER, EW__OP_NONE},
             {"upper", IS_UPPER, EW__OP_NONE},
             {"escaped", IS_ESCAPED, EW__OP_NONE},
             {"sameas", IS_SAMEAS, EW__OP_NONE},
             {"eq", IS_COMPARED, EW__OP_EQ},
             {"==", IS_COMPARED, EW__OP_EQ},
             {"equalto", IS_COMPARED, EW__OP_EQ},
             {"ne", IS_COMPARED, EW__OP_NE},
             {"!=", IS_COMPARED, EW__OP_NE},
             {"lt", IS_COMPARED, EW__OP_LT},
             {"<", IS_COMPARED, EW__OP_LT},
             {"lessthan", IS_COMPARED, EW__OP_LT},
             {"le", IS_COMPARED, EW__OP_LE},
             {"<=", IS_COMPARED, EW__OP_LE},
             {"gt", IS_COMPARED, EW__OP_GT},
             {">", IS_COMPARED, EW__OP_GT},
             {"greaterthan", IS_COMPARED, EW__OP_GT},
             {"ge", IS_COMPARED, EW__OP_GE},
             {">=", IS_COMPARED, EW__OP_GE},
             {"in", IS_COMPARED, EW__OP_IN}};

static bool iterable(const ew__val *v)
{
    return v->kind == EW__STR || v->kind == EW__LIST || v->kind == EW__DICT || v->kind == EW__UNDEFINED ||
           v->kind == EW__LOOP;
}

static bool sequence(const ew__val *v)
{
    return v->kind == EW__LIST ? v->u.list->kind <= EW__LIST_RANGE
                               : v->kind == EW__STR || v->kind == EW__DICT || v->kind == EW__UNDEFINED;
}

static ew_status parity(ew__run *r, const ew__val *v, const ew__val *by, bool *ret)
{
    ew__val rest;
    EW_TRY(ew__binary(r, EW__OP_MOD, v, by, &rest));
    *ret = ew__is_number(&rest) && ew__as_float(&rest) == 0;
    return EW_OK;
}

/* str.isupper and str.islower, for ASCII. */
static ew_status cased(ew__run *r, const ew__val *v, bool upper, bool *ret)
{
    ew__val s;
    bool any = false;
    EW_TRY(ew__str_of(r, v, &s));
    *ret = true;
    for (size_t i = 0; i < s.u.s.n; i++) {
        unsigned char c = (unsigned char)s.u.s.p[i];
        if (c >= 0x80) {
            return ew__fail(r, EW_EUNSUPPORTED, "test '%s' beyond ASCII", upper ? "upper" : "lower");
        }
        bool is_upper = c >= 'A' && c <= 'Z';
        bool is_lower = c >= 'a' && c <= 'z';
        any = any || is_upper || is_lower;
        *ret = *ret && !(upper ? is_lower : is_upper);
    }
    *ret = *ret && any;
    return ew__charge(r, s.u.s.n);
}

static ew_status same(ew__run *r, const ew__val *a, const ew__val *b, bool *ret)
{
    bool plain = a->kind == EW__NONE_VALUE || a->kind == EW__BOOL;
    *ret = false;
    if (a->kind != b->kind) {
        return EW_OK;
    }
    if (!plain && a->kind != EW__LIST && a->kind != EW__DICT && a->kind != EW__NAMESPACE) {
        return ew__fail(r, EW_EUNSUPPORTED, "test 'sameas' of %s", ew__type_name(a));
    }
    *ret = a->kind == EW__NONE_VALUE || (a->kind == EW__BOOL ? a->u.b == b->u.b : a->u.list == b->u.list);
    return EW_OK;
}

static ew_status test_value(ew__run *r, test_id id, const ew__val *v, const ew__val *arg, bool *ret)
{
    ew__val two = ew__int(2);
    switch (id) {
    case IS_DEFINED:
        *ret = v->kind != EW__UNDEFINED;
        return EW_OK;
    case IS_UNDEFINED:
        *ret = v->kind == EW__UNDEFINED;
        return EW_OK;
    case IS_NONE:
        *ret = v->kind == EW__NONE_VALUE;
        return EW_OK;
    case IS_BOOLEAN:
        *ret = v->kind == EW__BOOL;
        return EW_OK;
    case IS_TRUE:
    case IS_FALSE:
        *ret = v->kind == EW__BOOL && v->u.b == (id == IS_TRUE);
        return EW_OK;
    case IS_INTEGER:
        *ret = v->kind == EW__INT;
        return EW_OK;
    case IS_FLOAT:
        *ret = v->kind == EW__FLOAT;
        return EW_OK;
    case IS_NUMBER:
        *ret = ew__is_number(v);
        return EW_OK;
    case IS_STRING:
        *ret = v->kind == EW__STR;
        return EW_OK;
    case IS_MAPPING:
        *ret = v->kind == EW__DICT;
        return EW_OK;
    case IS_ITERABLE:
        *ret = iterable(v);
        return EW_OK;
    case IS_SEQUENCE:
        *ret = sequence(v);
        return EW_OK;
    case IS_CALLABLE:
        *ret = v->kind == EW__FUNCTION || v->kind == EW__METHOD || v->kind == EW__MACRO || v->kind == EW__UNDEFINED ||
               v->kind == EW__LOOP;
        return EW_OK;
    case IS_ODD:
        EW_TRY(parity(r, v, &two, ret));
        *ret = !*ret;
        return EW_OK;
    case IS_EVEN:
        return parity(r, v, &two, ret);
    case IS_DIVISIBLEBY:
        return parity(r, v, arg, ret);
    case IS_LOWER:
    case IS_UPPER:
        return cased(r, v, id == IS_UPPER, ret);
    case IS_ESCAPED:
        *ret = v->kind == EW__STR && v->markup;
        return EW_OK;
    default:
        return same(r, v, arg, ret);
    }
}

ew_status ew__test(ew__run *r, ew__str name, const ew__val *in, const ew__args *a, bool *ret)
{
    EW_TRY(ew__charge(r, 0));
    for (size_t i = 0; i < EW_COUNT(tests); i++) {
        if (!ew__is(name, tests[i].name)) {
            continue;
        }
        static const char *const names[] = {"other"};
        ew__val arg = {.kind = EW__ABSENT};
        bool binary = tests[i].id >= IS_SAMEAS || tests[i].id == IS_DIVISIBLEBY;
        EW_TRY(ew__bind_args(r, a, tests[i].name, names, binary, binary, &arg));
        return tests[i].id == IS_COMPARED ? ew__compare(r, tests[i].op, in, &arg, ret)
                                          : test_value(r, tests[i].id, in, &arg, ret);
    }
    return ew__fail(r, EW_EUNSUPPORTED, "test '%.*s'", (int)EW_MIN(name.n, 60u), name.p);
}
