/* Store URLs; see url.h. Knows no network: it only takes the text apart. */
#include "shared/base/url.h"

#include "shared/base/buf.h"
#include "shared/base/file.h"

static mq_code read_tcp(mq_url *url, mq_span at, mq_error *err);
static mq_code read_option(mq_url *url, mq_span option, mq_error *err);
static bool cut(mq_span *rest, char mark, mq_span *head);
static bool strip(mq_span *s, const char *prefix);

mq_code mq_url_parse(mq_url *out, const char *text, mq_error *err)
{
    *out = (mq_url){0};
    mq_span rest = mq_str(text);
    if (rest.len >= MQ_URL_TEXT_MAX) {
        return mq_fail(err, MQ_E_ARG, "store URL: %zu bytes; the limit is %d", rest.len,
                       MQ_URL_TEXT_MAX - 1);
    }
    if (strip(&rest, "dir:")) {
        out->kind = MQ_URL_DIR;
        mq_span_copy(rest, out->path, sizeof out->path);
        return out->path[0] == '/'
                   ? MQ_OK
                   : mq_fail(err, MQ_E_ARG, "store URL \"%s\": the folder must start with /", text);
    }
    bool is_unix = strip(&rest, "unix:");
    if (!is_unix && !strip(&rest, "tcp:")) {
        return mq_fail(err, MQ_E_ARG,
                       "store URL \"%s\": must start with unix:, tcp: or dir: "
                       "(for example unix:/run/maasq/redis.sock)",
                       text);
    }
    mq_span place;
    bool has_options = cut(&rest, ',', &place);
    if (is_unix) {
        out->kind = MQ_URL_UNIX;
        mq_span_copy(place, out->path, sizeof out->path);
        if (out->path[0] != '/' || place.len > MQ_URL_UNIX_MAX) {
            return mq_fail(err, MQ_E_ARG,
                           "store URL \"%s\": the socket's path must start with / and have at most "
                           "%d bytes",
                           text, MQ_URL_UNIX_MAX);
        }
    } else if (read_tcp(out, place, err) != MQ_OK) {
        return mq_wrap(err, "store URL \"%s\"", text);
    }
    while (has_options) {
        mq_span option;
        has_options = cut(&rest, ',', &option);
        if (read_option(out, option, err) != MQ_OK) {
            return mq_wrap(err, "store URL \"%s\"", text);
        }
    }
    return MQ_OK;
}

mq_code mq_url_password(const mq_url *url, char out[MQ_URL_SECRET_MAX], mq_error *err)
{
    out[0] = '\0';
    if (url->secret[0] == '\0') {
        return MQ_OK;
    }
    mq_buf buf;
    mq_buf_init(&buf, 4096);
    mq_code code = mq_file_read(url->secret, &buf, err);
    if (code == MQ_OK) {
        mq_span rest = mq_buf_span(&buf);
        mq_span line;
        cut(&rest, '\n', &line);
        if (line.len > 0 && line.data[line.len - 1] == '\r') {
            line.len--;
        }
        if (line.len == 0 || line.len >= MQ_URL_SECRET_MAX) {
            code = mq_fail(err, MQ_E_ARG, "%s: the first line must hold a password of 1..%d bytes",
                           url->secret, MQ_URL_SECRET_MAX - 1);
        } else {
            mq_span_copy(line, out, MQ_URL_SECRET_MAX);
        }
    }
    mq_buf_release(&buf);
    return code;
}

static mq_code read_tcp(mq_url *url, mq_span at, mq_error *err)
{
    url->kind = MQ_URL_TCP;
    size_t colon = at.len;
    for (size_t i = 0; i < at.len; i++) {
        colon = at.data[i] == ':' ? i : colon;
    }
    mq_span host = mq_span_of(at.data, colon);
    if (host.len > 2 && host.data[0] == '[' && host.data[host.len - 1] == ']') {
        host = mq_span_of(host.data + 1, host.len - 2);
    }
    if (host.len == 0 || colon == at.len || !mq_span_copy(host, url->host, sizeof url->host)) {
        return mq_fail(err, MQ_E_ARG, "must be tcp:HOST:PORT");
    }
    for (size_t i = colon + 1; i < at.len; i++) {
        bool is_digit = at.data[i] >= '0' && at.data[i] <= '9';
        url->port = is_digit && url->port <= 65535 ? url->port * 10 + (at.data[i] - '0') : 65536;
    }
    if (url->port < 1 || url->port > 65535) {
        return mq_fail(err, MQ_E_ARG, "the port must be a number in 1..65535");
    }
    return MQ_OK;
}

static mq_code read_option(mq_url *url, mq_span option, mq_error *err)
{
    mq_span value = option;
    if (strip(&value, "user=") && value.len > 0 && url->user[0] == '\0') {
        return mq_span_copy(value, url->user, sizeof url->user)
                   ? MQ_OK
                   : mq_fail(err, MQ_E_ARG, "user: more than %zu bytes", sizeof url->user - 1);
    }
    value = option;
    if (strip(&value, "secret=") && value.len > 0 && url->secret[0] == '\0') {
        mq_span_copy(value, url->secret, sizeof url->secret);
        return MQ_OK;
    }
    return mq_fail(err, MQ_E_ARG, "option \"%.*s\": only user=NAME and secret=FILE, each once",
                   MQ_SPAN_ARG(option));
}

/* Head = what is before the first mark, rest = what follows it; false when there is no mark (head
 * is then everything). */
static bool cut(mq_span *rest, char mark, mq_span *head)
{
    const uint8_t *at = rest->len > 0 ? memchr(rest->data, mark, rest->len) : NULL;
    if (at == NULL) {
        *head = *rest;
        *rest = (mq_span){0};
        return false;
    }
    *head = mq_span_of(rest->data, (size_t)(at - rest->data));
    *rest = mq_span_of(at + 1, rest->len - head->len - 1);
    return true;
}

static bool strip(mq_span *s, const char *prefix)
{
    size_t len = strlen(prefix);
    if (s->len < len || memcmp(s->data, prefix, len) != 0) {
        return false;
    }
    *s = mq_span_of(s->data + len, s->len - len);
    return true;
}
