/* An example of job kinds of one's own, and what the tests of them run. Build and try it:
 *
 *     cc -shared -fPIC -fvisibility=hidden -I worker/include -o text_kinds.so
 * worker/examples/text_kinds.c maasq-worker --broker ENDPOINT --handlers ./text_kinds.so printf
 * hello | maasq job submit text.upper --input - --wait
 *
 *   text.upper   the input in capitals, with progress and a log line
 *   text.split   one child text.upper for each line of the input
 *   text.store   stores the input as a blob, reads it back, results in its hash
 *   text.end     fails as its input says: retry, permanent, crash, once (retry in the first
 * attempt) text.wait    runs until it is cancelled; input "deaf": even then, so that it has to be
 * killed */
#include <ctype.h>
#include <maasq_worker.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

/* Made once in each slot process, given to every run: a database connection, a loaded model. */
typedef struct counter {
    unsigned runs;
} counter;

static int counter_init(void **state, char *error, size_t error_size)
{
    counter *c = calloc(1, sizeof *c);
    if (c == NULL || getenv("TEXT_KINDS_REFUSE") != NULL) {
        (void)snprintf(error, error_size, "TEXT_KINDS_REFUSE is set");
        free(c);
        return 1;
    }
    *state = c;
    return 0;
}

static int is_input(const maasq_task *task, const char *text)
{
    return task->input_bytes == strlen(text) && memcmp(task->input, text, task->input_bytes) == 0;
}

static int upper(maasq_task *task, void *state)
{
    counter *c = state;
    char *out = malloc(task->input_bytes + 1), json[64];
    if (out == NULL) {
        return maasq_task_fail(task, MAASQ_RETRY, "no memory for %zu bytes", task->input_bytes);
    }
    for (size_t i = 0; i < task->input_bytes; i++) {
        out[i] = (char)toupper(((const unsigned char *)task->input)[i]);
    }
    (void)snprintf(json, sizeof json, "{\"fraction\":1,\"bytes\":%zu}", task->input_bytes);
    (void)maasq_task_progress(task, json);
    maasq_task_log(task, "run %u of this slot, attempt %u", ++c->runs, task->attempt);
    int code = maasq_task_result(task, out, task->input_bytes);
    free(out);
    return code == 0 ? MAASQ_SUCCEEDED
                     : maasq_task_fail(task, MAASQ_PERMANENT, "%s", maasq_task_error(task));
}

static int split(maasq_task *task, void *state)
{
    const char *at = task->input, *end = at + task->input_bytes;
    char count[32];
    int children = 0;
    (void)state;
    while (at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t bytes = (size_t)((stop == NULL ? end : stop) - at);
        if (maasq_task_spawn(task, "text.upper", "", at, bytes) != 0) {
            return maasq_task_fail(task, MAASQ_PERMANENT, "line %d: %s", children + 1,
                                   maasq_task_error(task));
        }
        children++;
        at += bytes + 1;
    }
    (void)snprintf(count, sizeof count, "{\"children\":%d}", children);
    return maasq_task_result(task, count, strlen(count)) == 0 ? MAASQ_SUCCEEDED : MAASQ_RETRY;
}

static int store(maasq_task *task, void *state)
{
    char hash[MAASQ_TASK_HASH_SIZE];
    maasq_task_blob blob;
    (void)state;
    if (maasq_task_blob_put(task, task->input, task->input_bytes, hash) != 0 ||
        maasq_task_blob_open(task, hash, &blob) != 0) {
        return maasq_task_fail(task, MAASQ_RETRY, "%s", maasq_task_error(task));
    }
    int is_equal = blob.bytes == task->input_bytes &&
                   (blob.bytes == 0 || memcmp(blob.data, task->input, blob.bytes) == 0);
    maasq_task_blob_close(task, &blob);
    if (!is_equal || maasq_task_result(task, hash, strlen(hash)) != 0) {
        return maasq_task_fail(task, MAASQ_RETRY, "the blob came back changed");
    }
    return MAASQ_SUCCEEDED;
}

static int end(maasq_task *task, void *state)
{
    (void)state;
    if (is_input(task, "crash")) {
        abort();
    }
    if (is_input(task, "retry") || (is_input(task, "once") && task->attempt == 1)) {
        return maasq_task_fail(task, MAASQ_RETRY, "attempt %u: asked to fail", task->attempt);
    }
    if (is_input(task, "once")) {
        return MAASQ_SUCCEEDED;
    }
    return maasq_task_fail(task, MAASQ_PERMANENT,
                           "input: must be retry, permanent, crash or once, %zu bytes came",
                           task->input_bytes);
}

static int wait_for_end(maasq_task *task, void *state)
{
    (void)state;
    (void)maasq_task_progress(task, "{\"waiting\":true}");
    while (is_input(task, "deaf") || !maasq_task_is_cancelled(task)) {
        (void)poll(NULL, 0, 5);
    }
    return MAASQ_STOPPED;
}

static const maasq_handler_kind kinds[] = {
    {.name = "text.upper", .run = upper, .init = counter_init, .release = free},
    {.name = "text.split", .run = split, .body_bytes_max = 4096},
    {.name = "text.store", .run = store},
    {.name = "text.end", .run = end, .attempts_max = 2},
    {.name = "text.wait", .run = wait_for_end, .max_run_ms = 60000, .attempts_max = 1},
};
MAASQ_HANDLERS(kinds)
