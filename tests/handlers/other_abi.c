/* A file of a later version of the interface: refused before anything of it is looked at. */
#include "worker/include/maasq_worker.h"

const maasq_handlers maasq_handler = {MAASQ_WORKER_ABI + 1, 1, 8, NULL};
