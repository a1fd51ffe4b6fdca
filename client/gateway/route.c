/* Matching of paths; see route.h. */
#include "client/gateway/route.h"

typedef struct row {
    const char *method;
    const char *path;
} row;

static const row rows[] = {
#define MQ_ROUTE(handler, method, path) {method, path},
#include "client/gateway/routes.def"
#undef MQ_ROUTE
};
enum { ROWS = sizeof rows / sizeof *rows };

static mq_span next_segment(mq_span *rest);
static bool matches(const row *at, mq_span path);
static mq_code take_names(mq_route *out, const row *at, mq_span path, mq_error *err);
static bool is_name(const char *text);
static int hex(uint8_t c);

mq_code mq_route_find(mq_route *out, const char *method, const char *path, mq_error *err)
{
    *out = (mq_route){0};
    mq_span whole = mq_str(path);
    if (whole.len > MQ_ROUTE_PATH_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "path: %zu bytes; the limit is %d", whole.len,
                       MQ_ROUTE_PATH_MAX);
    }
    /* "/v2/" is "/v2": one slash at the end does not matter. */
    if (whole.len > 1 && whole.data[whole.len - 1] == '/') {
        whole.len--;
    }
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    char others[64] = "";
    for (uint32_t i = 0; i < ROWS; i++) {
        if (!matches(&rows[i], whole)) {
            continue;
        }
        if (strcmp(rows[i].method, wanted) == 0) {
            out->row = i;
            out->method = rows[i].method;
            return take_names(out, &rows[i], whole, err);
        }
        size_t used = strlen(others);
        if (strstr(others, rows[i].method) == NULL && used + 10 < sizeof others) {
            memcpy(others + used, used > 0 ? ", " : "", used > 0 ? 2 : 0);
            used += used > 0 ? 2 : 0;
            memcpy(others + used, rows[i].method, strlen(rows[i].method) + 1);
        }
    }
    if (others[0] != '\0') {
        return mq_fail(err, MQ_E_UNSUPPORTED, "%s", others);
    }
    return mq_fail(err, MQ_E_NOT_FOUND, "no such path: %.200s", path);
}

const char *mq_route_path(const mq_route *route)
{
    return rows[route->row].path;
}

bool mq_percent_decode(mq_span text, bool is_query, char *out, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < text.len; i++) {
        int c = text.data[i];
        if (c == '%') {
            int high = i + 2 < text.len ? hex(text.data[i + 1]) : -1;
            int low = i + 2 < text.len ? hex(text.data[i + 2]) : -1;
            if (high < 0 || low < 0) {
                return false;
            }
            c = high * 16 + low;
            i += 2;
        } else if (c == '+' && is_query) {
            c = ' ';
        }
        if (c < 0x20 || c == 0x7f || used + 1 >= size) {
            return false;
        }
        out[used++] = (char)c;
    }
    out[used] = '\0';
    return true;
}

static mq_span next_segment(mq_span *rest)
{
    const uint8_t *slash = rest->len > 0 ? memchr(rest->data, '/', rest->len) : NULL;
    mq_span head = *rest;
    if (slash == NULL) {
        *rest = (mq_span){0};
        return head;
    }
    head.len = (size_t)(slash - head.data);
    *rest = mq_span_of(slash + 1, rest->len - head.len - 1);
    return head;
}

static bool matches(const row *at, mq_span path)
{
    mq_span pattern = mq_str(at->path);
    for (;;) {
        bool is_last = memchr(pattern.data, '/', pattern.len) == NULL;
        bool is_end = path.len == 0 || memchr(path.data, '/', path.len) == NULL;
        mq_span want = next_segment(&pattern);
        mq_span got = next_segment(&path);
        bool is_hole = want.len > 0 && want.data[0] == '{';
        if (is_last != is_end || (is_hole ? got.len == 0 : !mq_span_eq(want, got))) {
            return false;
        }
        if (is_last) {
            return true;
        }
        if (pattern.len == 0) {
            return path.len == 0; /* "/" itself */
        }
    }
}

static mq_code take_names(mq_route *out, const row *at, mq_span path, mq_error *err)
{
    mq_span pattern = mq_str(at->path);
    while (pattern.len > 0) {
        mq_span want = next_segment(&pattern);
        mq_span got = next_segment(&path);
        char *to = mq_span_is(want, "{model}")     ? out->model
                   : mq_span_is(want, "{version}") ? out->version
                   : mq_span_is(want, "{id}")      ? out->id
                                                   : NULL;
        if (to != NULL &&
            (!mq_percent_decode(got, false, to, MQ_ROUTE_NAME_SIZE) || !is_name(to))) {
            to[0] = '\0';
            return mq_fail(err, MQ_E_ARG,
                           "%.*s \"%.*s\": must be 1..%d of letters, digits, '.', '_', '-'",
                           MQ_SPAN_ARG(mq_span_of(want.data + 1, want.len - 2)),
                           (int)(got.len < 160 ? got.len : 160), (const char *)got.data,
                           MQ_ROUTE_NAME_SIZE - 1);
        }
    }
    return MQ_OK;
}

static bool is_name(const char *text)
{
    static const char good[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t len = strlen(text);
    return len > 0 && strspn(text, good) == len;
}

static int hex(uint8_t c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}
