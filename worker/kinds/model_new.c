/* Kind "model.new": {"name":"fashion","arch":"mlp:784-256-128-10","seed":1?} builds an ONNX model
 * with random first weights and publishes it. Result {"name","meta"}. */
#include "worker/kinds/body.h"
#include "worker/kinds/kind.h"
#include "worker/models/arch.h"
#include "worker/models/meta.h"

mq_kind_run mq_kind_run_model_new;

mq_code mq_kind_run_model_new(mq_host *host, mq_error *err)
{
    const char *name = NULL, *arch = NULL;
    int64_t seed = 1;
    mq_body body;
    mq_model *model = NULL;
    mq_code code =
        mq_body_open(&body, host->body, (const char *[]){"name", "arch", "seed", NULL}, err);
    if (code == MQ_OK) {
        code = mq_body_name(&body, "name", true, false, &name, err);
    }
    if (code == MQ_OK) {
        code = mq_body_text(&body, "arch", true, MQ_ARCH_TEXT_MAX, &arch, err);
    }
    if (code == MQ_OK) {
        code = mq_body_int(&body, "seed", 0, INT64_MAX, &seed, err);
    }
    if (code == MQ_OK) {
        code = mq_arch_build(&model, arch, (uint64_t)seed, err);
    }
    if (code == MQ_OK) {
        mq_model_meta meta;
        mq_model_meta_init(&meta);
        meta.kind = arch;
        meta.pass = "new";
        code = mq_model_publish(host, name, model, &meta, err);
    }
    mq_model_free(model);
    mq_body_close(&body);
    return code;
}
