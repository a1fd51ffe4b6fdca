/* Models as the broker's answers describe them: which version a request means, what its inputs are.
 * Pure; borrows from the JSON it is given. */
#ifndef MQ_GATEWAY_REGISTRY_H
#define MQ_GATEWAY_REGISTRY_H

#include <jansson.h>

#include "shared/base/error.h"
#include "shared/tensor/tensor.h"

typedef struct mq_model_view {
    const char *name;
    json_int_t version;
    const json_t *meta;     /* object of the version, NULL when there is none */
    const json_t *versions; /* all of the model's versions, an array; NULL when not told */
} mq_model_view;

/* Looks in the answer to the question "models" (a list of all) or "model" (one of them). version:
 * "" for alias prod, else the highest; a number; or an alias. False: it is not in there, which for
 * the list, cut at its limit and a second old, does not mean that there is none. */
bool mq_registry_find(const json_t *answer, const char *name, const char *version,
                      mq_model_view *out);

/* The model's "inputs" or "outputs"[index]: name borrowed, -1 in shape = variable. False at the end
 * of the list, and for what is not well-formed. */
bool mq_registry_tensor(const mq_model_view *model, const char *which, size_t index,
                        const char **name, mq_dtype *dtype, mq_shape *shape);

#endif
