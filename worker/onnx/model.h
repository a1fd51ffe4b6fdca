/* An ONNX model in memory: what a file says, checked, and editable.
 *
 *   mq_model
 *    +- ir_version, producer, opsets[] {domain, version}, metadata[] {key, value}
 *    +- graph
 *        +- inputs[], outputs[], values[]   mq_value_info {name, dtype, dims}
 *        +- initializers[]                  mq_init {name, tensor}
 *        +- nodes[]                         mq_node {op_type, inputs[], outputs[], attrs[]}
 *
 * Everything lives in the model's own arena and dies with it. Initializer bytes are either borrowed
 * (from the span given to mq_model_load, usually a mapped file, which must then outlive the model)
 * or owned. The structs are open for reading; change them through the functions below only.
 * Pointers to nodes, inits and infos hold until the next call that edits the model.
 * Names are NUL-terminated UTF-8; an omitted optional input is "". Not thread-safe while edited.
 *
 * Source: onnx.proto3 of the ONNX project (IR version 3 to 13). */
#ifndef MQ_WORKER_ONNX_MODEL_H
#define MQ_WORKER_ONNX_MODEL_H

#include "shared/base/arena.h"
#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "shared/base/span.h"
#include "shared/tensor/tensor.h"

enum {
    MQ_MODEL_NODES_MAX = 100000,  /* in a model, subgraphs included */
    MQ_MODEL_VALUES_MAX = 100000, /* initializers, and likewise inputs + outputs + value infos */
    MQ_MODEL_ATTRS_MAX = 64,      /* per node */
    MQ_MODEL_ARGS_MAX = 4096,     /* inputs or outputs per node */
    MQ_MODEL_DEPTH_MAX = 4,       /* graphs within graphs, the main graph counting 1 */
    MQ_MODEL_NAME_BYTES_MAX = 1024,
    MQ_MODEL_OPSETS_MAX = 32,
    MQ_MODEL_FUNCTIONS_MAX = 1024,
    MQ_MODEL_CALLS_MAX = 16, /* functions that call functions */
    MQ_MODEL_METADATA_MAX = 1024,
};

/* Version of the default domain that models built here say, and the newest that is read (of 27 the
 * operators that did not change, and Range). */
enum { MQ_MODEL_OPSET = 17, MQ_MODEL_IR = 8, MQ_OPSET_MAX = 27 };

typedef struct mq_graph mq_graph;

/* Type and shape of a named value. rank -1: shape not given. dims[i] -1: not fixed; then
 * dim_names[i] is its symbol ("N") or NULL. */
typedef struct mq_value_info {
    const char *name;
    mq_dtype dtype; /* MQ_DT_NONE: not given (only in values[] and graph outputs) */
    int32_t rank;
    int64_t dims[MQ_RANK_MAX];
    const char *dim_names[MQ_RANK_MAX];
} mq_value_info;

/* A constant tensor. For MQ_DT_STR, tensor.data points to mq_span[count]. Borrowed bytes may have
 * any alignment. */
typedef struct mq_init {
    const char *name;
    mq_tensor tensor;
    bool is_owned; /* bytes are in the model's arena and may be overwritten by mq_model_set_init */
} mq_init;

/* AttributeProto.AttributeType. */
typedef enum mq_attr_type {
    MQ_ATTR_FLOAT = 1,
    MQ_ATTR_INT = 2,
    MQ_ATTR_STRING = 3,
    MQ_ATTR_TENSOR = 4,
    MQ_ATTR_GRAPH = 5,
    MQ_ATTR_FLOATS = 6,
    MQ_ATTR_INTS = 7,
    MQ_ATTR_STRINGS = 8,
} mq_attr_type;

typedef struct mq_attr {
    const char *name;
    const char *ref; /* while loading: the attribute of a function's call that has the value */
    mq_attr_type type;
    float f;
    int64_t i;
    mq_span s;             /* bytes, not checked to be UTF-8 */
    const mq_init *tensor; /* name may be "" */
    mq_graph *graph;
    size_t count; /* of the one list that type says */
    const float *floats;
    const int64_t *ints;
    const mq_span *strings;
} mq_attr;

typedef struct mq_node {
    const char *op_type;
    const char *domain; /* "" = ai.onnx */
    const char *name;   /* may be "" */
    const char **inputs;
    const char **outputs;
    mq_attr *attrs;
    uint32_t input_count;
    uint32_t output_count;
    uint32_t attr_count;
} mq_node;

struct mq_graph {
    const char *name;
    mq_value_info *inputs; /* may include initializers (old IR versions list them) */
    mq_value_info *outputs;
    mq_value_info *values; /* what the file says of inner values; a hint only */
    mq_init *initializers;
    mq_node *nodes; /* in topological order once verified */
    uint32_t input_count, output_count, value_count, initializer_count, node_count;
    uint32_t input_room, output_room, value_room, initializer_room, node_room;
};

typedef struct mq_opset {
    const char *domain; /* "" = ai.onnx */
    int64_t version;
} mq_opset;

typedef struct mq_metadata {
    const char *key;
    const char *value;
} mq_metadata;

typedef struct mq_model {
    int64_t ir_version;
    const char *producer_name;
    const char *producer_version;
    const char *domain;
    int64_t model_version;
    mq_opset opsets[MQ_MODEL_OPSETS_MAX];
    uint32_t opset_count;
    mq_metadata *metadata;
    uint32_t metadata_count, metadata_room;
    mq_graph graph;
    uint32_t node_total; /* nodes of all graphs, for the limit */
    mq_arena arena;      /* holds everything above, the struct itself too */
} mq_model;

/* --- life --- */

/* Reads a serialized ModelProto and verifies it (mq_model_verify). Borrows bytes until
 * mq_model_free. Time is linear in bytes.len (the sort of names apart); memory is bounded by
 * memory_bytes_max (0: 256 MiB + 2 x bytes.len) whatever the bytes are. Errors say the offset:
 * MQ_E_FORMAT for malformed bytes or a broken graph, MQ_E_LIMIT, MQ_E_UNSUPPORTED for external
 * data, sparse initializers and element types not in dtype.def. Model-local functions are put in
 * place of their calls. */
MQ_MUST_USE mq_code mq_model_load(mq_model **out, mq_span bytes, size_t memory_bytes_max,
                                  mq_error *err);

/* Empty model with ir_version MQ_MODEL_IR, opset MQ_MODEL_OPSET of the default domain, producer
 * "maasq" and this version. */
MQ_MUST_USE mq_code mq_model_new(mq_model **out, const char *graph_name, size_t memory_bytes_max,
                                 mq_error *err);

/* A copy that owns all its bytes. */
MQ_MUST_USE mq_code mq_model_clone(mq_model **out, const mq_model *model, size_t memory_bytes_max,
                                   mq_error *err);

/* NULL is allowed. */
void mq_model_free(mq_model *model);

/* Appends the model as ModelProto bytes: the same model gives the same bytes. Tensors are written
 * as raw_data (string tensors as string_data). The buffer's own limit gives MQ_E_LIMIT. */
MQ_MUST_USE mq_code mq_model_save(const mq_model *model, mq_buf *out, mq_error *err);

/* Reads one serialized TensorProto (input_0.pb of test vectors) into the arena; bytes are borrowed
 * where they can be. */
MQ_MUST_USE mq_code mq_tensor_proto_load(mq_arena *arena, mq_span bytes, mq_init *out,
                                         mq_error *err);
MQ_MUST_USE mq_code mq_tensor_proto_save(const mq_init *init, mq_buf *out, mq_error *err);

/* --- checks --- */

/* Puts nodes into topological order (keeping the given order where it is one) and checks: every
 * input is produced, given or constant; no value is produced twice; no cycle; outputs exist.
 * MQ_E_FORMAT names node and value. Call after editing; mq_model_load has done it. */
MQ_MUST_USE mq_code mq_model_verify(mq_model *model, mq_error *err);

/* --- reading --- */

/* Version the model imports for a domain ("" or "ai.onnx" are the same); 0 when it does not. */
int64_t mq_model_opset(const mq_model *model, const char *domain);

/* Each NULL when there is none of that name. Linear search. */
const mq_init *mq_graph_init(const mq_graph *graph, const char *name);
const mq_value_info *mq_graph_input(const mq_graph *graph, const char *name);
const mq_attr *mq_node_attr(const mq_node *node, const char *name);
const char *mq_model_metadata(const mq_model *model, const char *key);

/* Inputs that a caller must give: graph inputs without an initializer of the same name. Writes up
 * to room indices into graph.inputs, returns how many there are. */
size_t mq_model_free_inputs(const mq_model *model, uint32_t *indices, size_t room);

/* Index of the node that makes the value, or UINT32_MAX. */
uint32_t mq_graph_producer(const mq_graph *graph, const char *value);

/* How many node inputs and graph outputs, of this graph and those within it, read the value. */
uint32_t mq_graph_use_count(const mq_graph *graph, const char *value);

/* Elements and bytes of all initializers. */
void mq_model_sizes(const mq_model *model, size_t *elements, size_t *bytes);

/* --- editing the main graph; texts and bytes are copied ---
 * Errors: MQ_E_LIMIT for limits and memory, MQ_E_EXISTS for a name in use, MQ_E_NOT_FOUND. */

MQ_MUST_USE mq_code mq_model_set_opset(mq_model *model, const char *domain, int64_t version,
                                       mq_error *err);
MQ_MUST_USE mq_code mq_model_set_metadata(mq_model *model, const char *key, const char *value,
                                          mq_error *err);

/* Adds (or, when the name is there, replaces) a graph input / output. info's texts are copied. */
MQ_MUST_USE mq_code mq_model_set_input(mq_model *model, const mq_value_info *info, mq_error *err);
MQ_MUST_USE mq_code mq_model_set_output(mq_model *model, const mq_value_info *info, mq_error *err);
void mq_model_remove_output(mq_model *model, const char *name);

/* Adds an initializer or gives the one of that name a new type, shape and bytes. Bytes of equal
 * length that the model owns already are overwritten in place, so that a loop of such calls takes
 * no memory. bytes.len must be what dtype and shape need. */
MQ_MUST_USE mq_code mq_model_set_init(mq_model *model, const char *name, mq_dtype dtype,
                                      const mq_shape *shape, mq_span bytes, mq_error *err);
void mq_model_remove_init(mq_model *model, const char *name);

/* What a new node is made of. */
typedef struct mq_node_spec {
    const char *op_type;
    const char *domain; /* NULL = "" */
    const char *name;   /* NULL = "" */
    const char *const *inputs;
    uint32_t input_count;
    const char *const *outputs;
    uint32_t output_count;
} mq_node_spec;

/* Inserts a node before index (node_count: at the end); *out (may be NULL) borrowed until the next
 * edit. The common case has a macro: MQ_NODE_ARGS("x", "w") gives pointer and count. */
MQ_MUST_USE mq_code mq_model_add_node(mq_model *model, uint32_t index, const mq_node_spec *spec,
                                      mq_node **out, mq_error *err);
void mq_model_remove_node(mq_model *model, uint32_t index);

#define MQ_NODE_ARGS(...)                                                                          \
    (const char *const[]){__VA_ARGS__},                                                            \
        (uint32_t)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *))

/* Each adds or replaces an attribute of a node of this model. */
MQ_MUST_USE mq_code mq_node_set_int(mq_model *model, mq_node *node, const char *name, int64_t value,
                                    mq_error *err);
MQ_MUST_USE mq_code mq_node_set_float(mq_model *model, mq_node *node, const char *name, float value,
                                      mq_error *err);
MQ_MUST_USE mq_code mq_node_set_string(mq_model *model, mq_node *node, const char *name,
                                       mq_span value, mq_error *err);
MQ_MUST_USE mq_code mq_node_set_ints(mq_model *model, mq_node *node, const char *name,
                                     const int64_t *values, size_t count, mq_error *err);
MQ_MUST_USE mq_code mq_node_set_floats(mq_model *model, mq_node *node, const char *name,
                                       const float *values, size_t count, mq_error *err);
MQ_MUST_USE mq_code mq_node_set_tensor(mq_model *model, mq_node *node, const char *name,
                                       const mq_tensor *value, mq_error *err);
void mq_node_remove_attr(mq_node *node, const char *name);

/* Replaces input number `index` of a node. */
MQ_MUST_USE mq_code mq_node_set_input(mq_model *model, mq_node *node, uint32_t index,
                                      const char *name, mq_error *err);
MQ_MUST_USE mq_code mq_node_set_output(mq_model *model, mq_node *node, uint32_t index,
                                       const char *name, mq_error *err);

/* Every node input that reads `from` reads `to` instead (graph outputs are left alone). */
MQ_MUST_USE mq_code mq_model_replace_uses(mq_model *model, const char *from, const char *to,
                                          mq_error *err);

/* A value name not used in the model: prefix, or prefix_1, prefix_2 ... NULL at the memory limit;
 * lives as long as the model. */
const char *mq_model_unique_name(mq_model *model, const char *prefix);

/* Removes nodes whose outputs nobody reads and initializers without a use; returns how many. */
uint32_t mq_model_remove_dead(mq_model *model);

#endif
