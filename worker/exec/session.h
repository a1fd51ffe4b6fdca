/* Runs an ONNX model: bind operators, fold constants, fuse, then per input shape a plan (shapes,
 * lifetimes, one block of memory) that is kept, so that a second run of the same shapes allocates
 * nothing. Where a shape depends on values that only a run knows, that plan runs node by node and
 * takes memory as it goes, within the same limit.
 *
 *     mq_session *s;
 *     code = mq_session_new(&s, model, NULL, err);
 *     mq_tensor in = {MQ_DT_F32, {2, {1, 784}}, pixels, sizeof pixels};
 *     const mq_tensor *out;
 *     code = mq_session_run(s, &in, 1, &out, err);     out[0] is the first graph output
 *     mq_session_free(s);
 *
 * One thread per session; any number of sessions may share a model that nobody edits. */
#ifndef MQ_WORKER_EXEC_SESSION_H
#define MQ_WORKER_EXEC_SESSION_H

#include "shared/base/file.h"
#include "worker/onnx/model.h"
#include "worker/packs/packs.h"

typedef struct mq_session mq_session;

/* Sees every value as it is computed: calibration, norms, debugging. Values are in the model's
 * order and under the model's names; the tensor is borrowed for the call. */
typedef void mq_session_observe(void *arg, const char *name, const mq_tensor *value);

/* Sees how long each kernel of a run took (profiles). call is borrowed: name and shapes. */
struct mq_op_call;
typedef void mq_session_timed(void *arg, const struct mq_op_call *call, int64_t ns);

typedef struct mq_session_options {
    size_t memory_bytes_max;     /* weights packed + all plans; 0 = 1 GiB */
    uint32_t plans_max;          /* plans kept, least recently used goes; 0 = 16 */
    bool no_fusion;              /* one kernel per node */
    bool is_exact;               /* an answer does not depend on what it was batched with */
    bool own_kernels;            /* without oneDNN, as if it were not there */
    mq_session_observe *observe; /* implies no_fusion; also called for graph inputs */
    void *observe_arg;
    bool (*stop)(void *arg); /* asked before every node; true ends the run with MQ_E_CANCELLED */
    void *stop_arg;
    mq_session_timed *timed; /* NULL: nothing is timed */
    void *timed_arg;
    /* Where packed weights are kept; NULL, or without a folder: private memory. Read by new only.
     */
    const mq_pack_place *packs;
    const mq_map_file
        *file; /* that the model was read from: pages go back after packing; or NULL */
} mq_session_options;

/* Borrows the model until mq_session_free. options may be NULL. MQ_E_UNSUPPORTED names node,
 * operator, domain, opset and reason; MQ_E_LIMIT at the memory limit. */
MQ_MUST_USE mq_code mq_session_new(mq_session **out, const mq_model *model,
                                   const mq_session_options *options, mq_error *err);
void mq_session_free(mq_session *session);

/* What run wants and gives, in order; returned borrowed from the session. dims -1 are free. */
size_t mq_session_inputs(const mq_session *session, const mq_value_info **out);
size_t mq_session_outputs(const mq_session *session, const mq_value_info **out);

/* Runs. inputs in the order of mq_session_inputs, borrowed for the call, aligned to their
 * element size; type and fixed dimensions
 * are checked, the same symbol must have the same size everywhere (MQ_E_ARG names input and
 * dimension). *outputs: array in the order of mq_session_outputs, with its data borrowed from the
 * session until its next run or free. */
MQ_MUST_USE mq_code mq_session_run(mq_session *session, const mq_tensor *inputs, size_t input_count,
                                   const mq_tensor **outputs, mq_error *err);

/* Shapes and types of the outputs for given input shapes (data is not read and may be NULL), as far
 * as they follow from shapes alone; MQ_E_UNSUPPORTED when not. *outputs as for run, data NULL. */
MQ_MUST_USE mq_code mq_session_shapes(mq_session *session, const mq_tensor *inputs,
                                      size_t input_count, const mq_tensor **outputs, mq_error *err);

typedef struct mq_session_stats {
    size_t packed_bytes;  /* weights copied or packed at load */
    mq_packs_stats packs; /* of them those in files or in pages of their own */
    size_t plan_bytes;    /* of the plan used last: its block of memory */
    uint32_t plan_count;
    uint32_t step_count;  /* kernels per run, after folding and fusion */
    uint32_t fused_count; /* nodes that went into another's kernel */
    uint32_t folded_count;
    bool is_planned; /* the last run's shapes were all known before it */
} mq_session_stats;

void mq_session_stats_get(const mq_session *session, mq_session_stats *out);

/* All that would stop the model from running, not only the first: one line each, appended to text
 * ("node 'conv1': Conv of domain ai.onnx at opset 11: no such operator here"). Returns how many
 * (0: it binds). */
size_t mq_session_check(const mq_model *model, mq_buf *text);

#endif
