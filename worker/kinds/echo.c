/* Kind "echo": the result is the body, byte for byte. For trying the queue out and for tests. */
#include "worker/kinds/kind.h"

mq_kind_run mq_kind_run_echo;

mq_code mq_kind_run_echo(mq_host *host, mq_error *err)
{
    return host->ops->result(host, host->body, err);
}
