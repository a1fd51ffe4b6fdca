/* Kind "evaluate": {"model":"m@prod","data":"fashion-test@1","batch":256?} runs a model over a
 * labelled dataset. Result:
 *
 *   {"model":"m@3","data":"fashion-test@1","rows":10000,"accuracy":0.88,"loss":0.35,
 *    "rows_per_s":90000,"classes":[{"class":0,"rows":1000,"correct":840,"accuracy":0.84},...]}
 *
 * accuracy is null and loss the mean squared error where labels are values. */
#include <math.h>

#include "worker/kinds/body.h"
#include "worker/kinds/kind.h"
#include "worker/models/measure.h"
#include "worker/models/meta.h"

mq_kind_run mq_kind_run_evaluate;

enum { BATCH_MAX = 65536, CLASSES_LISTED_MAX = 1000, RESULT_BYTES_MAX = 1 << 20 };

static mq_code give_result(mq_host *host, const char *model, const char *data,
                           const mq_score *score, mq_error *err)
{
    mq_buf out;
    mq_buf_init(&out, RESULT_BYTES_MAX);
    mq_buf_printf(&out, "{\"model\":\"%s\",\"data\":\"%s\",\"rows\":%llu,\"accuracy\":", model,
                  data, (unsigned long long)score->rows);
    if (score->classes > 0) {
        mq_buf_printf(&out, "%.9g", score->accuracy);
    } else {
        mq_buf_add_str(&out, "null");
    }
    if (isfinite(score->loss)) {
        mq_buf_printf(&out, ",\"loss\":%.9g", score->loss);
    } else {
        mq_buf_add_str(&out, ",\"loss\":null");
    }
    mq_buf_printf(&out, ",\"rows_per_s\":%.1f,\"classes\":[", score->rows_per_s);
    for (int32_t c = 0; c < score->classes && c < CLASSES_LISTED_MAX; c++) {
        uint64_t rows = score->class_rows[c], correct = score->class_correct[c];
        mq_buf_printf(&out, "%s{\"class\":%d,\"rows\":%llu,\"correct\":%llu,\"accuracy\":",
                      c == 0 ? "" : ",", c, (unsigned long long)rows, (unsigned long long)correct);
        if (rows > 0) {
            mq_buf_printf(&out, "%.6g}", (double)correct / (double)rows);
        } else {
            mq_buf_add_str(&out, "null}");
        }
    }
    mq_buf_add_str(&out, "]}");
    mq_code code = host->ops->result(host, mq_buf_span(&out), err);
    mq_buf_release(&out);
    return code;
}

static mq_code evaluate(mq_host *host, const char *model, const char *data, uint32_t batch,
                        mq_error *err)
{
    mq_model_ref ref;
    mq_dataset *dataset = NULL;
    mq_score score = {0};
    mq_code code = mq_model_ref_open(&ref, host, model, err);
    if (code == MQ_OK) {
        code = mq_dataset_open(&dataset, host, data, err);
    }
    if (code == MQ_OK) {
        code = mq_model_score(&score, ref.model, dataset, batch, host, "evaluate", err);
    }
    if (code == MQ_OK) {
        code = give_result(host, ref.name, mq_dataset_facts_of(dataset)->name, &score, err);
    }
    mq_score_release(&score);
    mq_dataset_free(dataset);
    mq_model_ref_release(&ref);
    return code;
}

mq_code mq_kind_run_evaluate(mq_host *host, mq_error *err)
{
    const char *model = host->model[0] == '\0' ? NULL : host->model, *data = NULL;
    int64_t batch = 256;
    mq_body body;
    mq_code code =
        mq_body_open(&body, host->body, (const char *[]){"model", "data", "batch", NULL}, err);
    if (code == MQ_OK) {
        code = mq_body_name(&body, "model", model == NULL, true, &model, err);
    }
    if (code == MQ_OK) {
        code = mq_body_name(&body, "data", true, true, &data, err);
    }
    if (code == MQ_OK) {
        code = mq_body_int(&body, "batch", 1, BATCH_MAX, &batch, err);
    }
    if (code == MQ_OK) {
        code = evaluate(host, model, data, (uint32_t)batch, err);
    }
    mq_body_close(&body);
    return code;
}
