/* The table of job kinds: every row of shared/job/kinds.def mapped to its function. A row without
 * its mq_kind_run_<symbol> does not link. */
#include "worker/kinds/kind.h"

#define MQ_KIND(symbol, name, gang, transient, run_ms, attempts, body_bytes)                       \
    extern mq_kind_run mq_kind_run_##symbol;
#include "shared/job/kinds.def"
#undef MQ_KIND

static const mq_kind kinds[] = {
#define MQ_KIND(symbol, name, gang, transient, run_ms, attempts, body_bytes)                       \
    {name, mq_kind_run_##symbol},
#include "shared/job/kinds.def"
#undef MQ_KIND
};

const mq_kind *mq_kind_find(mq_span name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (mq_span_is(name, kinds[i].name)) {
            return &kinds[i];
        }
    }
    return NULL;
}
