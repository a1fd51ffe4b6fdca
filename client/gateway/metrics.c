/* Metrics; see metrics.h. Families stand in the order in which they are written; samples of a
 * family follow each other. No job id and no free text is ever a label: their number has no bound.
 */
#include "client/gateway/metrics.h"

#include <math.h>

#include "shared/base/span.h"

/* A counter of the broker's status; help is with the first row of a family. */
typedef struct counter {
    const char *family;
    const char *labels;
    const char *member;
    const char *help;
} counter;

static const counter counters[] = {
    {"maasq_jobs_submitted_total", "", "submitted", "Jobs accepted."},
    {"maasq_jobs_granted_total", "", "granted", "Leases given to workers."},
    {"maasq_jobs_finished_total", "{state=\"succeeded\"}", "succeeded", "Jobs that ended."},
    {"maasq_jobs_finished_total", "{state=\"dead\"}", "dead", NULL},
    {"maasq_jobs_finished_total", "{state=\"cancelled\"}", "cancelled", NULL},
    {"maasq_jobs_finished_total", "{state=\"expired\"}", "expired", NULL},
    {"maasq_jobs_retried_total", "", "retried", "Clean failures that are tried again."},
    {"maasq_leases_lapsed_total", "", "lapsed", "Leases that ran out, were returned or lost."},
    {"maasq_crashes_total", "", "crashed", "Deaths of a slot while it ran a job."},
    {"maasq_refused_busy_total", "", "refused_busy", "Submits refused because something is full."},
    {"maasq_duplicates_total", "", "dups", "Messages that were answered as repeats."},
    {"maasq_transient_ended_total", "", "transient_ended", "Transient jobs that ended."},
    {"maasq_checkpoints_total", "", "checkpoints", "Steps of trainings that were stored."},
    {"maasq_memo_hits_total", "", "memo_hits", "Jobs answered by equal work done before."},
};

static void family(mq_buf *out, const char *name, const char *type, const char *help);
static void label(mq_buf *out, const char *name, const char *value);
static void value(mq_buf *out, double number);
static double number_of(const json_t *object, const char *key);
static void write_own(const mq_metrics_gateway *own, mq_buf *out);
static void write_states(const json_t *status, mq_buf *out);
static void write_counters(const json_t *status, mq_buf *out);
static void write_store(const json_t *store, mq_buf *out);
static void write_held(const json_t *status, mq_buf *out);
static void write_workers(const json_t *workers, mq_buf *out);
static void write_queues(const json_t *queues, mq_buf *out);
static void write_queue(const json_t *queue, const char *name, double number, mq_buf *out);
static void write_models(const json_t *models, mq_buf *out);
static void write_training(const json_t *curves, mq_buf *out);

void mq_metrics_write(const json_t *root, const mq_metrics_gateway *own, mq_buf *out)
{
    const json_t *status = json_object_get(root, "status");
    write_own(own, out);
    write_states(status, out);
    write_counters(status, out);
    write_held(status, out);
    write_store(json_object_get(status, "store"), out);
    write_workers(json_object_get(json_object_get(root, "workers"), "workers"), out);
    write_queues(json_object_get(json_object_get(root, "queues"), "queues"), out);
    write_models(json_object_get(json_object_get(root, "models"), "models"), out);
    write_training(json_object_get(root, "curves"), out);
}

static void write_own(const mq_metrics_gateway *own, mq_buf *out)
{
    family(out, "maasq_up", "gauge", "1 while the broker answers this gateway.");
    mq_buf_printf(out, "maasq_up %d\n", own->is_ok ? 1 : 0);
    family(out, "maasq_build_info", "gauge", "Version of this gateway.");
    mq_buf_add_str(out, "maasq_build_info{version=\"" MQ_VERSION "\"} 1\n");
    family(out, "maasq_gateway_answers_total", "counter", "HTTP answers by class of status.");
    for (size_t i = 1; i < 6; i++) {
        mq_buf_printf(out, "maasq_gateway_answers_total{code=\"%zuxx\"} %llu\n", i,
                      (unsigned long long)own->answers[i]);
    }
    family(out, "maasq_gateway_waiting", "gauge", "HTTP requests that wait for the system.");
    mq_buf_printf(out, "maasq_gateway_waiting %u\n", own->waiting);
    family(out, "maasq_gateway_event_streams", "gauge", "Pages that listen for events.");
    mq_buf_printf(out, "maasq_gateway_event_streams %u\n", own->streams);
}

static void write_counters(const json_t *status, mq_buf *out)
{
    const json_t *from = json_object_get(status, "counters");
    size_t missing = json_array_size(json_object_get(status, "missing"));
    if (json_is_object(status)) {
        double shards = number_of(status, "shards");
        family(out, "maasq_shards", "gauge", "Shards of the deployment.");
        mq_buf_printf(out, "maasq_shards %.0f\n", isnan(shards) ? 1 : shards);
        family(out, "maasq_shards_missing", "gauge",
               "Shards whose owner did not answer: other figures are without them.");
        mq_buf_printf(out, "maasq_shards_missing %zu\n", missing);
    }
    if (missing > 0) {
        return; /* a counter must not fall: there is none until all shards are there */
    }
    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++) {
        const counter *c = &counters[i];
        double number = number_of(from, c->member);
        if (isnan(number)) {
            continue;
        }
        if (c->help != NULL) {
            family(out, c->family, "counter", c->help);
        }
        mq_buf_printf(out, "%s%s ", c->family, c->labels);
        value(out, number);
    }
}

static void write_workers(const json_t *workers, mq_buf *out)
{
    double ready = 0;
    double draining = 0;
    double slots = 0;
    double free_slots = 0;
    if (!json_is_array(workers)) {
        return;
    }
    for (size_t i = 0; i < json_array_size(workers); i++) {
        const json_t *worker = json_array_get(workers, i);
        bool is_draining = json_is_true(json_object_get(worker, "is_draining"));
        ready += is_draining ? 0 : 1;
        draining += is_draining ? 1 : 0;
        slots += json_number_value(json_object_get(worker, "slots"));
        free_slots += json_number_value(json_object_get(worker, "free"));
    }
    family(out, "maasq_workers", "gauge", "Connected workers.");
    mq_buf_printf(out, "maasq_workers{state=\"ready\"} %.0f\n", ready);
    mq_buf_printf(out, "maasq_workers{state=\"draining\"} %.0f\n", draining);
    family(out, "maasq_slots", "gauge", "Slots of the connected workers.");
    mq_buf_printf(out, "maasq_slots{state=\"busy\"} %.0f\n", slots - free_slots);
    mq_buf_printf(out, "maasq_slots{state=\"free\"} %.0f\n", free_slots);
}

static void write_states(const json_t *status, mq_buf *out)
{
    static const char *const states[] = {"queued", "leased", "scheduled", "blocked", "transient"};
    const json_t *jobs = json_object_get(status, "jobs");
    if (!json_is_object(jobs)) {
        return;
    }
    family(out, "maasq_jobs", "gauge",
           "Jobs that have not ended, by state (transient: all states).");
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        double number = number_of(jobs, states[i]);
        if (!isnan(number)) {
            mq_buf_printf(out, "maasq_jobs{state=\"%s\"} ", states[i]);
            value(out, number);
        }
    }
}

/* What waits for more than a free worker, and kinds that are paused. */
static void write_held(const json_t *status, mq_buf *out)
{
    static const char *const reasons[] = {"paused", "limit", "no_worker"};
    const json_t *held = json_object_get(status, "held");
    const json_t *kinds = json_object_get(status, "kinds");
    if (!json_is_object(held) || !json_is_object(kinds)) {
        return;
    }
    family(out, "maasq_jobs_held", "gauge", "Waiting jobs that a free worker would not start.");
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        mq_buf_printf(out, "maasq_jobs_held{reason=\"%s\"} ", reasons[i]);
        value(out, number_of(held, reasons[i]));
    }
    family(out, "maasq_kinds_paused", "gauge", "Kinds that are paused, and why.");
    double quarantined = number_of(kinds, "quarantined");
    mq_buf_add_str(out, "maasq_kinds_paused{by=\"quarantine\"} ");
    value(out, quarantined);
    mq_buf_add_str(out, "maasq_kinds_paused{by=\"operator\"} ");
    value(out, number_of(kinds, "paused") - quarantined);
}

static void write_store(const json_t *store, mq_buf *out)
{
    double commits = number_of(store, "commits");
    if (!json_is_object(store) || isnan(commits)) {
        return;
    }
    family(out, "maasq_store_connected", "gauge", "1 while the broker reaches Redis.");
    mq_buf_printf(out, "maasq_store_connected %d\n",
                  json_is_true(json_object_get(store, "connected")) ? 1 : 0);
    family(out, "maasq_store_commits_total", "counter", "Commits of the broker.");
    mq_buf_add_str(out, "maasq_store_commits_total ");
    value(out, commits);
    family(out, "maasq_store_commit_seconds", "gauge", "Mean time of a commit.");
    mq_buf_add_str(out, "maasq_store_commit_seconds ");
    value(out, number_of(store, "commit_us") / 1e6);
    family(out, "maasq_store_bytes", "gauge", "Memory of the state's Redis.");
    mq_buf_add_str(out, "maasq_store_bytes{which=\"used\"} ");
    value(out, number_of(store, "used_bytes"));
    mq_buf_add_str(out, "maasq_store_bytes{which=\"limit\"} ");
    value(out, number_of(store, "max_bytes"));
    family(out, "maasq_store_level", "gauge",
           "0 ok, 1 above 70 %, 2 above 80 %: new jobs are busy.");
    const char *level = json_string_value(json_object_get(store, "level"));
    level = level == NULL ? "" : level;
    mq_buf_printf(out, "maasq_store_level %d\n",
                  strcmp(level, "full") == 0   ? 2
                  : strcmp(level, "warn") == 0 ? 1
                                               : 0);
    family(out, "maasq_results_bytes", "gauge", "Finished jobs that are kept.");
    mq_buf_add_str(out, "maasq_results_bytes{which=\"used\"} ");
    value(out, number_of(store, "results_bytes"));
    mq_buf_add_str(out, "maasq_results_bytes{which=\"limit\"} ");
    value(out, number_of(store, "results_bytes_max"));
}

/* A row of the broker's list is what waits of one kind and model in one queue. */
static void write_queues(const json_t *queues, mq_buf *out)
{
    if (!json_is_array(queues)) {
        return;
    }
    family(out, "maasq_queue_waiting", "gauge", "Jobs that wait for a worker.");
    for (size_t i = 0; i < json_array_size(queues); i++) {
        const json_t *queue = json_array_get(queues, i);
        write_queue(queue, "maasq_queue_waiting", number_of(queue, "waiting"), out);
    }
    family(out, "maasq_queue_oldest_seconds", "gauge", "Age of the job that is next.");
    for (size_t i = 0; i < json_array_size(queues); i++) {
        const json_t *queue = json_array_get(queues, i);
        write_queue(queue, "maasq_queue_oldest_seconds", number_of(queue, "oldest_ms") / 1000, out);
    }
}

static void write_queue(const json_t *queue, const char *name, double number, mq_buf *out)
{
    mq_buf_printf(out, "%s{", name);
    label(out, "queue", json_string_value(json_object_get(queue, "queue")));
    mq_buf_add_str(out, ",");
    label(out, "kind", json_string_value(json_object_get(queue, "kind")));
    mq_buf_add_str(out, ",");
    label(out, "model", json_string_value(json_object_get(queue, "model")));
    const char *needs = json_string_value(json_object_get(queue, "needs"));
    if (needs != NULL && needs[0] != '\0') {
        mq_buf_add_str(out, ",");
        label(out, "needs", needs);
    }
    mq_buf_add_str(out, "} ");
    value(out, number);
}

static void write_models(const json_t *models, mq_buf *out)
{
    if (!json_is_array(models)) {
        return;
    }
    family(out, "maasq_model_info", "gauge", "Where each alias of a model points.");
    for (size_t i = 0; i < json_array_size(models); i++) {
        const json_t *model = json_array_get(models, i);
        const json_t *versions = json_object_get(model, "versions");
        for (size_t v = 0; v < json_array_size(versions); v++) {
            const json_t *version = json_array_get(versions, v);
            const json_t *aliases = json_object_get(version, "aliases");
            for (size_t k = 0; k < json_array_size(aliases); k++) {
                mq_buf_add_str(out, "maasq_model_info{");
                label(out, "model", json_string_value(json_object_get(model, "name")));
                mq_buf_printf(out, ",version=\"%lld\",",
                              (long long)json_integer_value(json_object_get(version, "version")));
                label(out, "alias", json_string_value(json_array_get(aliases, k)));
                mq_buf_add_str(out, "} 1\n");
            }
        }
    }
}

/* The newest running training of each model. */
static void write_training(const json_t *curves, mq_buf *out)
{
    static const struct {
        const char *name, *help;
        size_t column;
    } gauges[] = {{"maasq_training_step", "Step of a running training.", 0},
                  {"maasq_training_loss", "Loss of a running training.", 1}};
    for (size_t g = 0; g < 2; g++) {
        family(out, gauges[g].name, "gauge", gauges[g].help);
        for (size_t i = 0; i < json_array_size(curves); i++) {
            const json_t *curve = json_array_get(curves, i);
            const json_t *points = json_object_get(curve, "points");
            const char *model = json_string_value(json_object_get(curve, "model"));
            bool is_first = true;
            for (size_t k = 0; k < i; k++) {
                const json_t *other = json_array_get(curves, k);
                is_first = is_first && (json_is_false(json_object_get(other, "running")) ||
                                        !json_equal(json_object_get(other, "model"),
                                                    json_object_get(curve, "model")));
            }
            const json_t *last = json_array_get(points, json_array_size(points) - 1);
            if (is_first && last != NULL && json_is_true(json_object_get(curve, "running"))) {
                mq_buf_printf(out, "%s{", gauges[g].name);
                label(out, "model", model);
                mq_buf_add_str(out, "} ");
                value(out, json_number_value(json_array_get(last, gauges[g].column)));
            }
        }
    }
}

static void family(mq_buf *out, const char *name, const char *type, const char *help)
{
    mq_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* name="value" with backslash, quote and newline escaped; control characters become
 * '?'. JSON has made sure of UTF-8. */
static void label(mq_buf *out, const char *name, const char *text)
{
    mq_buf_printf(out, "%s=\"", name);
    for (const char *c = text == NULL ? "" : text; *c != '\0'; c++) {
        if (*c == '\\' || *c == '"') {
            mq_buf_printf(out, "\\%c", *c);
        } else if (*c == '\n') {
            mq_buf_add_str(out, "\\n");
        } else {
            mq_buf_add(out, (unsigned char)*c < 0x20 ? "?" : c, 1);
        }
    }
    mq_buf_add_str(out, "\"");
}

static void value(mq_buf *out, double number)
{
    if (isnan(number)) {
        mq_buf_add_str(out, "NaN\n");
    } else if (isinf(number)) {
        mq_buf_add_str(out, number > 0 ? "+Inf\n" : "-Inf\n");
    } else {
        mq_buf_printf(out, "%.17g\n", number);
    }
}

static double number_of(const json_t *object, const char *key)
{
    const json_t *found = json_object_get(object, key);
    return json_is_number(found) ? json_number_value(found) : (double)NAN;
}
