/* Rows of kinds.def whose own file is not in the tree yet: each says so and fails. Whoever adds
 * worker/kinds/<symbol>.c removes its row here; the file goes with the last row. */
#include "worker/kinds/kind.h"

#define PENDING(symbol)                                                                            \
    mq_kind_run mq_kind_run_##symbol;                                                              \
    mq_code mq_kind_run_##symbol(mq_host *host, mq_error *err)                                     \
    {                                                                                              \
        return mq_fail(err, MQ_E_UNSUPPORTED, "%s: this build does not have the kind",             \
                       host->kind);                                                                \
    }

PENDING(optimize)
