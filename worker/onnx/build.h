/* Inside worker/onnx only: growing the arrays of a model, and names that are checked and copied. */
#ifndef MQ_WORKER_ONNX_BUILD_H
#define MQ_WORKER_ONNX_BUILD_H

#include "worker/onnx/model.h"
#include "worker/onnx/pb.h"

/* Room for one more element of an array in the arena (zeroed); *count is raised. NULL at the
 * arena's limit. Old arrays stay in the arena: at most as much again. */
void *mq_grow(mq_arena *arena, void *array_ptr, uint32_t *count, uint32_t *room, size_t size);

/* Empty model inside its own arena, no opsets. NULL: no memory. */
mq_model *mq_model_blank(size_t memory_bytes_max);

/* mq_model_load, with the bytes copied into the model's arena first when is_copied. */
mq_code mq_model_read(mq_model **out, mq_span bytes, bool is_copied, size_t memory_bytes_max,
                      mq_error *err);

/* Is it UTF-8 (RFC 3629) without NUL? */
bool mq_is_name(mq_span s);

/* Reads a TensorProto; pb is at its start. Leaves the error in pb. */
void mq_read_tensor(mq_pb *pb, mq_arena *arena, mq_init *out);

/* Name or text field: checked, copied. NULL after an error, which is in pb. */
const char *mq_read_name(mq_pb *pb, mq_arena *arena, const mq_pb_field *field, const char *what);

typedef struct mq_function mq_function;

/* What the readers of one model share. */
typedef struct mq_loader {
    mq_model *model;
    uint32_t depth;       /* of nested graphs */
    uint32_t value_total; /* initializers and value infos so far */
    mq_function *functions;
    uint32_t function_count, function_room;
    uint32_t call_count; /* calls of functions expanded so far */
    const char *prefix;  /* of names made for them */
    bool is_function;    /* inside one: attributes may refer to the call's */
    mq_node node;        /* what mq_read_counted_node has read */
} mq_loader;

/* functions.c: reads a FunctionProto; then, when all is read, puts functions in place of calls. */
bool mq_read_function(mq_pb *pb, mq_loader *l);
mq_code mq_expand_functions(mq_loader *l, mq_error *err);

/* A NodeProto into l->node, counted towards the limit. */
bool mq_read_counted_node(mq_pb *pb, mq_loader *l);

/* Each reads one message; false after an error, which is in pb. */
bool mq_read_value_info(mq_pb *pb, mq_loader *l, mq_value_info *info);
bool mq_read_attr(mq_pb *pb, mq_loader *l, mq_attr *attr);
bool mq_read_graph(mq_pb *pb, mq_loader *l, mq_graph *graph);

/* Hands a nested reader's error to its parent; true when there is none. */
bool mq_read_join(mq_pb *pb, const mq_pb *nested);

/* "no memory" as a reader's error. */
bool mq_read_full(mq_pb *pb, size_t offset);

/* Removes element `index` of an array of `count`. */
void mq_array_remove(void *array, uint32_t *count, size_t size, uint32_t index);

/* Writes a TensorProto's fields. */
void mq_write_tensor(mq_buf *buf, const mq_init *init);

#endif
