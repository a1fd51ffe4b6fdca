/* The table of architectures and the reading of their texts; see arch.h. */
#include "worker/models/arch.h"

#include <stdio.h>

#include "shared/base/assert.h"

#define MQ_ARCH(symbol, name, form, small, summary) extern mq_arch_build_fn mq_arch_build_##symbol;
#include "worker/models/arch.def"
#undef MQ_ARCH

static const struct {
    const char *name, *form;
    mq_arch_build_fn *build;
} table[] = {
#define MQ_ARCH(symbol, name, form, small, summary) {name, form, mq_arch_build_##symbol},
#include "worker/models/arch.def"
#undef MQ_ARCH
};

static const char forms[] =
#define MQ_ARCH(symbol, name, form, small, summary) " " form
#include "worker/models/arch.def"
#undef MQ_ARCH
    ;

/* "784-256-10": numbers between dashes, nothing else. */
static mq_code parse_sizes(const char *arch, const char *text, mq_arch_sizes *sizes, mq_error *err)
{
    sizes->count = 0;
    for (const char *at = text;; at++) {
        int64_t n = 0;
        const char *from = at;
        while (*at >= '0' && *at <= '9' && n <= MQ_ARCH_SIZE_MAX) {
            n = n * 10 + (*at++ - '0');
        }
        if (at == from || n < 1 || n > MQ_ARCH_SIZE_MAX || (*at != '-' && *at != '\0')) {
            return mq_fail(err, MQ_E_ARG,
                           "arch \"%s\": at \"%.20s\" expected a number in 1..%d, then '-' or the "
                           "end",
                           arch, from, MQ_ARCH_SIZE_MAX);
        }
        if (sizes->count == MQ_ARCH_SIZES_MAX) {
            return mq_fail(err, MQ_E_ARG, "arch \"%s\": more than %d numbers", arch,
                           MQ_ARCH_SIZES_MAX);
        }
        sizes->size[sizes->count++] = n;
        if (*at == '\0') {
            return MQ_OK;
        }
    }
}

mq_code mq_arch_parse(const char *arch, mq_arch_sizes *sizes, mq_arch_build_fn **build,
                      mq_error *err)
{
    size_t len = strcspn(arch, ":");
    if (strlen(arch) > MQ_ARCH_TEXT_MAX) {
        return mq_fail(err, MQ_E_ARG, "arch: longer than %d bytes", MQ_ARCH_TEXT_MAX);
    }
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (!mq_span_is(mq_span_of(arch, len), table[i].name)) {
            continue;
        }
        if (arch[len] == '\0') {
            return mq_fail(err, MQ_E_ARG, "arch \"%s\": the sizes are missing; the form is %s",
                           arch, table[i].form);
        }
        if (build != NULL) {
            *build = table[i].build;
        }
        return parse_sizes(arch, arch + len + 1, sizes, err);
    }
    return mq_fail(err, MQ_E_ARG, "arch \"%s\" is not known; there are%s", arch, forms);
}

mq_code mq_arch_build(mq_model **out, const char *arch, uint64_t seed, mq_error *err)
{
    mq_arch_sizes sizes;
    mq_arch_build_fn *build = NULL;
    mq_model *model = NULL;
    char number[24];
    *out = NULL;
    mq_code code = mq_arch_parse(arch, &sizes, &build, err);
    if (code == MQ_OK) {
        code = mq_model_new(&model, "maasq", 0, err);
    }
    if (code == MQ_OK) {
        MQ_ASSERT(build != NULL);
        code = build(model, &sizes, seed, err);
        if (code != MQ_OK) {
            mq_wrap(err, "arch \"%s\"", arch);
        }
    }
    if (code == MQ_OK) {
        code = mq_model_set_metadata(model, "maasq.arch", arch, err);
    }
    snprintf(number, sizeof number, "%llu", (unsigned long long)seed);
    if (code == MQ_OK) {
        code = mq_model_set_metadata(model, "maasq.seed", number, err);
    }
    if (code == MQ_OK) {
        code = mq_model_verify(model, err);
    }
    if (code != MQ_OK) {
        mq_model_free(model);
        return code;
    }
    *out = model;
    return MQ_OK;
}
