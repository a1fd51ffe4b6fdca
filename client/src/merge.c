/* Answers of several shards as one; see merge.h. Everything particular to a question stands in
 * merge.def; this file only knows the rules. */
#include "client/src/merge.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/math.h"

enum { ROWS_DEFAULT = 100, PATH_MAX_BYTES = 64, KEY_MAX_BYTES = 1024 };

typedef enum how {
    SUM,
    MAX,
    MIN,
    ANY,
    ALL,
    TEXT,
    WORST,
    UNION,
    CONCAT,
    MEAN,
    PROCESS,
    NEWEST,
} how;

typedef struct field_rule {
    const char *what, *path;
    how rule;
} field_rule;

typedef struct list_rule {
    const char *what, *array, *key, *order;
    size_t rows;
} list_rule;

#define MQ_MERGE_LIST(what, array, key, order, rows)
#define MQ_MERGE_FIELD(what, path, rule) {#what, path, rule},
static const field_rule fields[] = {
#include "client/src/merge.def"
};
#undef MQ_MERGE_LIST
#undef MQ_MERGE_FIELD
#define MQ_MERGE_LIST(what, array, key, order, rows) {#what, array, key, order, rows},
#define MQ_MERGE_FIELD(what, path, rule)
static const list_rule lists[] = {
#include "client/src/merge.def"
};
#undef MQ_MERGE_LIST
#undef MQ_MERGE_FIELD

enum { FIELDS = sizeof fields / sizeof *fields, LISTS = sizeof lists / sizeof *lists };

static const list_rule *list_of(const char *what)
{
    for (size_t i = 0; i < LISTS; i++) {
        if (strcmp(lists[i].what, what) == 0) {
            return &lists[i];
        }
    }
    return NULL;
}

bool mq_merge_knows(const char *what)
{
    bool is_known = false;
    for (size_t i = 0; i < FIELDS; i++) {
        is_known = is_known || strcmp(fields[i].what, what) == 0;
    }
    return is_known || list_of(what) != NULL;
}

/* ---- one value ---- */

static double number(const json_t *value)
{
    return json_is_number(value) ? json_number_value(value) : 0;
}

/* Whole numbers stay whole. */
static json_t *add_numbers(const json_t *a, const json_t *b)
{
    if (json_is_real(a) || json_is_real(b)) {
        return json_real(number(a) + number(b));
    }
    json_int_t sum = 0;
    if (__builtin_add_overflow(json_integer_value(a), json_integer_value(b), &sum)) {
        sum = INT64_MAX;
    }
    return json_integer(sum);
}

static int badness(const json_t *level)
{
    const char *text = json_string_value(level);
    return text == NULL || strcmp(text, "ok") == 0 ? 0 : strcmp(text, "full") == 0 ? 2 : 1;
}

static bool has_text(const json_t *array, const json_t *text)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        if (json_equal(json_array_get(array, i), text)) {
            return true;
        }
    }
    return false;
}

static json_t *add_rows(const json_t *a, const json_t *b, bool is_union)
{
    json_t *out = json_copy((json_t *)(uintptr_t)a);
    for (size_t i = 0; i < json_array_size(b); i++) {
        json_t *one = json_array_get(b, i);
        if (!is_union || !has_text(out, one)) {
            json_array_append(out, one);
        }
    }
    return out;
}

/* The two objects that the values are of, for rules that look at other fields too. */
typedef struct sides {
    const json_t *into, *from;
    bool is_same_process;
} sides;

static json_t *mean(const json_t *a, const json_t *b, const sides *s)
{
    double wa = number(json_object_get(s->into, "commits"));
    double wb = number(json_object_get(s->from, "commits"));
    double value = wa + wb > 0 ? (number(a) * wa + number(b) * wb) / (wa + wb) : number(a);
    return json_is_integer(a) ? json_integer((json_int_t)value) : json_real(value);
}

static json_t *larger(const json_t *a, const json_t *b, bool is_smaller)
{
    bool takes_b = is_smaller ? number(b) < number(a) : number(b) > number(a);
    return json_copy((json_t *)(uintptr_t)(takes_b ? b : a));
}

/* Returns owned. */
static json_t *combine(how rule, const json_t *a, const json_t *b, const sides *s)
{
    bool takes_b = false;
    switch (rule) {
    case SUM:
        return add_numbers(a, b);
    case PROCESS:
        return s->is_same_process ? json_copy((json_t *)(uintptr_t)a) : add_numbers(a, b);
    case MAX:
    case MIN:
        return larger(a, b, rule == MIN);
    case ANY:
        return json_boolean(json_is_true(a) || json_is_true(b));
    case ALL:
        return json_boolean(json_is_true(a) && json_is_true(b));
    case TEXT:
        takes_b = json_string_length(a) == 0;
        break;
    case WORST:
        takes_b = badness(b) > badness(a);
        break;
    case NEWEST:
        takes_b = number(json_object_get(s->from, "last_ms")) >
                  number(json_object_get(s->into, "last_ms"));
        break;
    case UNION:
    case CONCAT:
        return add_rows(a, b, rule == UNION);
    case MEAN:
        return mean(a, b, s);
    }
    return json_copy((json_t *)(uintptr_t)(takes_b ? b : a));
}

static void merge_value(json_t *into, const json_t *from, const char *key, how rule,
                        bool is_same_process)
{
    json_t *b = json_object_get(from, key);
    const json_t *a = json_object_get(into, key);
    sides s = {into, from, is_same_process};
    if (b != NULL) {
        json_object_set_new(into, key, a == NULL ? json_incref(b) : combine(rule, a, b, &s));
    }
}

/* One row of the table; path is relative to both objects. */
static void merge_path(json_t *into, const json_t *from, const char *path, how rule,
                       bool is_same_process)
{
    char head[PATH_MAX_BYTES];
    const char *dot = strchr(path, '.');
    if (dot != NULL) {
        (void)mq_span_copy(mq_span_of(path, (size_t)(dot - path)), head, sizeof head);
        into = json_object_get(into, head);
        from = json_object_get(from, head);
        path = dot + 1;
    }
    if (!json_is_object(into) || !json_is_object(from)) {
        return;
    }
    if (strcmp(path, "*") != 0) {
        merge_value(into, from, path, rule, is_same_process);
        return;
    }
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)from, key, value)
    {
        merge_value(into, from, key, rule, is_same_process);
    }
}

/* ---- rows ---- */

static void key_of(const json_t *row, const char *names, char out[KEY_MAX_BYTES])
{
    size_t len = 0;
    out[0] = '\0';
    while (*names != '\0' && len < KEY_MAX_BYTES) {
        char name[PATH_MAX_BYTES];
        size_t n = strcspn(names, " ");
        (void)mq_span_copy(mq_span_of(names, n), name, sizeof name);
        const char *text = json_string_value(json_object_get(row, name));
        int wrote = snprintf(out + len, KEY_MAX_BYTES - len, "%s\n", text == NULL ? "" : text);
        len += wrote > 0 ? (size_t)wrote : 0;
        names += n + (names[n] == ' ');
    }
}

/* Rows of one more answer into those so far; index: key -> row in the list. */
static void join_rows(const list_rule *list, json_t *rows, json_t *index, const json_t *more)
{
    char key[KEY_MAX_BYTES];
    size_t under = strlen(list->array);
    for (size_t i = 0; i < json_array_size(more); i++) {
        json_t *row = json_array_get(more, i);
        key_of(row, list->key, key);
        json_t *into = json_object_get(index, key);
        if (into == NULL) {
            into = json_deep_copy(row);
            json_array_append_new(rows, into);
            json_object_set(index, key, into);
            continue;
        }
        for (size_t f = 0; f < FIELDS; f++) {
            if (strcmp(fields[f].what, list->what) == 0 &&
                strncmp(fields[f].path, list->array, under) == 0 && fields[f].path[under] == '.') {
                merge_value(into, row, fields[f].path + under + 1, fields[f].rule, false);
            }
        }
    }
}

typedef struct sorted {
    json_t *row;
    double by;
    size_t at;
} sorted;

static int larger_first(const void *a, const void *b)
{
    const sorted *x = a;
    const sorted *y = b;
    if (x->by < y->by || x->by > y->by) {
        return x->by < y->by ? 1 : -1;
    }
    return x->at < y->at ? -1 : x->at > y->at;
}

/* "-field": by that number, the largest first, equal ones as they stood. */
static void sort_rows(json_t *rows, const char *order)
{
    size_t count = json_array_size(rows);
    sorted *all = order[0] == '-' && count > 1 ? calloc(count, sizeof *all) : NULL;
    if (all == NULL) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        json_t *row = json_array_get(rows, i);
        all[i] = (sorted){json_incref(row), number(json_object_get(row, order + 1)), i};
    }
    qsort(all, count, sizeof *all, larger_first);
    for (size_t i = 0; i < count; i++) {
        json_array_set_new(rows, i, all[i].row);
    }
    free(all);
}

/* ---- a whole answer ---- */

typedef struct merge {
    const char *what;
    const list_rule *list; /* or NULL */
    const mq_merge_part *parts;
    uint32_t shards, limit;
    json_t *answers[MQ_ULID_SHARDS_MAX];
    size_t taken[MQ_ULID_SHARDS_MAX]; /* rows of it that are in the list */
    json_t *out;                      /* owned */
} merge;

static json_t *rows_of(const merge *m, uint32_t shard)
{
    return json_object_get(m->answers[shard], m->list->array);
}

/* One row of each shard in turn until there are enough: no shard hides another. */
static void take_in_turn(merge *m, json_t *rows, size_t most)
{
    bool is_any = true;
    while (is_any && json_array_size(rows) < most) {
        is_any = false;
        for (uint32_t s = 0; s < m->shards && json_array_size(rows) < most; s++) {
            json_t *row = json_array_get(rows_of(m, s), m->taken[s]);
            if (row != NULL) {
                json_object_set_new(row, "shard", json_integer(s));
                json_array_append(rows, row);
                m->taken[s]++;
                is_any = true;
            }
        }
    }
}

static void join_all(merge *m, json_t *rows)
{
    json_t *index = json_object();
    for (uint32_t s = 0; s < m->shards; s++) {
        join_rows(m->list, rows, index, rows_of(m, s));
    }
    json_decref(index);
}

static void cut(json_t *out, json_t *rows, size_t most)
{
    size_t count = json_array_size(rows);
    if (count > most) {
        json_object_set_new(out, "left_off", json_integer((json_int_t)(count - most)));
    }
    while (json_array_size(rows) > most) {
        json_array_remove(rows, json_array_size(rows) - 1);
    }
}

/* Where a shard's list goes on: behind its last row that was taken. "end": nowhere. */
static const char *cursor_of(const merge *m, uint32_t shard)
{
    const json_t *rows = m->answers[shard] == NULL ? NULL : rows_of(m, shard);
    if (m->answers[shard] == NULL || (m->taken[shard] == 0 && json_array_size(rows) > 0)) {
        return m->parts[shard].after;
    }
    const char *text = NULL;
    if (m->taken[shard] < json_array_size(rows)) {
        text =
            json_string_value(json_object_get(json_array_get(rows, m->taken[shard] - 1), "cursor"));
        return text == NULL ? "" : text;
    }
    text = json_string_value(json_object_get(m->answers[shard], "next"));
    return text == NULL || text[0] == '\0' ? "end" : text;
}

/* `next` of the whole list; absent when every shard's is at its end. */
static void set_next(merge *m)
{
    char text[MQ_CURSORS_SIZE] = "";
    size_t len = 0;
    bool is_more = false;
    for (uint32_t s = 0; s < m->shards; s++) {
        const char *at = cursor_of(m, s);
        is_more = is_more || strcmp(at, "end") != 0;
        int n = at[0] == '\0' ? 0
                              : snprintf(text + len, sizeof text - len, "%s%u:%s",
                                         len == 0 ? "" : ",", s, at);
        len = mq_min_size(len + (n > 0 ? (size_t)n : 0), sizeof text - 1);
    }
    json_object_del(m->out, "next");
    if (is_more) {
        json_object_set_new(m->out, "next", json_string(text));
    }
}

static void merge_list(merge *m)
{
    json_t *rows = json_array();
    bool is_page = strcmp(m->what, "jobs") == 0;
    bool is_plain = m->list->key[0] == '\0';
    size_t wanted = m->limit == 0 && is_plain ? ROWS_DEFAULT : m->limit;
    size_t most = wanted == 0 ? m->list->rows : mq_min_size(wanted, m->list->rows);
    if (!is_plain) {
        join_all(m, rows);
    } else if (is_page) {
        take_in_turn(m, rows, most);
    } else {
        take_in_turn(m, rows, SIZE_MAX);
    }
    sort_rows(rows, m->list->order);
    cut(m->out, rows, most);
    if (is_page) {
        set_next(m);
    }
    json_object_set_new(m->out, m->list->array, rows);
}

static void merge_fields(merge *m, uint32_t shard)
{
    const json_t *from = m->answers[shard];
    json_t *owners = json_object_get(m->out, "owners");
    json_t *broker = json_object_get(from, "broker");
    bool is_same = false;
    for (size_t i = 0; i < json_array_size(owners); i++) {
        is_same = is_same || json_equal(json_object_get(json_array_get(owners, i), "front"),
                                        json_object_get(broker, "front"));
    }
    for (size_t f = 0; f < FIELDS; f++) {
        if (strcmp(fields[f].what, m->what) == 0) {
            merge_path(m->out, from, fields[f].path, fields[f].rule, is_same);
        }
    }
    if (json_is_object(broker)) {
        json_array_append_new(owners, json_deep_copy(broker));
    }
}

static mq_code read_parts(merge *m, mq_error *err)
{
    for (uint32_t s = 0; s < m->shards; s++) {
        json_error_t where;
        const char *text = m->parts[s].json;
        m->answers[s] = text == NULL ? NULL : json_loads(text, JSON_REJECT_DUPLICATES, &where);
        if (text != NULL && !json_is_object(m->answers[s])) {
            return mq_fail(err, MQ_E_FORMAT, "shard %u: its answer to %s is no JSON object", s,
                           m->what);
        }
    }
    return MQ_OK;
}

static void say_missing(merge *m)
{
    json_t *missing = json_array();
    for (uint32_t s = 0; s < m->shards; s++) {
        if (m->answers[s] == NULL && strcmp(m->parts[s].after, "end") != 0) {
            const char *why = m->parts[s].why;
            json_array_append_new(missing, json_pack("{s:i, s:s}", "shard", (int)s, "why",
                                                     why == NULL ? "no answer" : why));
        }
    }
    json_object_set_new(m->out, "shards", json_integer(m->shards));
    json_object_set_new(m->out, "missing", missing);
}

static void merge_all(merge *m)
{
    for (uint32_t s = 0; s < m->shards; s++) {
        if (m->answers[s] == NULL) {
            continue;
        }
        if (m->out == NULL) {
            m->out = json_deep_copy(m->answers[s]);
            json_t *broker = json_object_get(m->out, "broker");
            if (broker != NULL) {
                json_object_set_new(m->out, "owners", json_pack("[o]", json_deep_copy(broker)));
            }
        } else {
            merge_fields(m, s);
        }
    }
}

mq_code mq_merge(const char *what, const mq_merge_part *parts, uint32_t shards, uint32_t limit,
                 char **out, mq_error *err)
{
    merge m = {.what = what, .list = list_of(what), .parts = parts, .limit = limit};
    m.shards = shards;
    *out = NULL;
    mq_code code = read_parts(&m, err);
    if (code == MQ_OK) {
        merge_all(&m);
        code = m.out != NULL ? MQ_OK : mq_fail(err, MQ_E_ARG, "%s: no shard has answered", what);
    }
    if (code == MQ_OK) {
        if (m.list != NULL) {
            merge_list(&m);
        }
        say_missing(&m);
        *out = json_dumps(m.out, JSON_COMPACT);
        code = *out != NULL ? MQ_OK : mq_fail(err, MQ_E_LIMIT, "no memory for an answer");
    }
    json_decref(m.out);
    for (uint32_t s = 0; s < shards; s++) {
        json_decref(m.answers[s]);
    }
    return code;
}

mq_code mq_merge_cursors(const char *text, uint32_t shards,
                         char out[MQ_ULID_SHARDS_MAX][MQ_CURSOR_SIZE], mq_error *err)
{
    memset(out, 0, MQ_ULID_SHARDS_MAX * sizeof *out);
    while (*text != '\0') {
        char *colon = NULL;
        unsigned long shard = strtoul(text, &colon, 10);
        size_t len = *colon == ':' ? strcspn(colon + 1, ",") : 0;
        if (colon == text || len == 0 || len >= MQ_CURSOR_SIZE || shard >= shards) {
            return mq_fail(err, MQ_E_ARG,
                           "filter: after=%.40s is not the `next` of a list of %u shards", text,
                           shards);
        }
        (void)mq_span_copy(mq_span_of(colon + 1, len), out[shard], MQ_CURSOR_SIZE);
        text = colon + 1 + len;
        text += *text == ',';
    }
    return MQ_OK;
}
