/* Models in the broker's JSON; see registry.h. */
#include "client/gateway/registry.h"

#include <stdlib.h>
#include <string.h>

static const json_t *find_model(const json_t *answer, const char *name);
static json_int_t wanted_version(const json_t *model, const char *version);
static bool has_alias(const json_t *version, const char *alias);

bool mq_registry_find(const json_t *answer, const char *name, const char *version,
                      mq_model_view *out)
{
    *out = (mq_model_view){0};
    const json_t *model = find_model(answer, name);
    json_int_t wanted = model == NULL ? 0 : wanted_version(model, version);
    const json_t *versions = json_object_get(model, "versions");
    for (size_t i = 0; wanted > 0 && i < json_array_size(versions); i++) {
        const json_t *entry = json_array_get(versions, i);
        if (json_integer_value(json_object_get(entry, "version")) == wanted) {
            out->name = json_string_value(json_object_get(model, "name"));
            out->version = wanted;
            out->meta = json_object_get(entry, "meta");
            out->versions = versions;
            return true;
        }
    }
    return false;
}

bool mq_registry_tensor(const mq_model_view *model, const char *which, size_t index,
                        const char **name, mq_dtype *dtype, mq_shape *shape)
{
    const json_t *tensor = json_array_get(json_object_get(model->meta, which), index);
    const char *type = json_string_value(json_object_get(tensor, "dtype"));
    const json_t *dims = json_object_get(tensor, "shape");
    *name = json_string_value(json_object_get(tensor, "name"));
    if (*name == NULL || type == NULL || json_array_size(dims) > MQ_RANK_MAX) {
        return false;
    }
    *dtype = mq_dtype_parse(mq_str(type));
    *shape = (mq_shape){.rank = (int32_t)json_array_size(dims)};
    for (int32_t i = 0; i < shape->rank; i++) {
        shape->dims[i] = json_integer_value(json_array_get(dims, (size_t)i));
    }
    return *dtype != MQ_DT_NONE;
}

static const json_t *find_model(const json_t *answer, const char *name)
{
    const json_t *models = json_object_get(answer, "models");
    if (models == NULL) {
        const char *own = json_string_value(json_object_get(answer, "name"));
        return own != NULL && strcmp(own, name) == 0 ? answer : NULL;
    }
    for (size_t i = 0; i < json_array_size(models); i++) {
        const json_t *model = json_array_get(models, i);
        const char *own = json_string_value(json_object_get(model, "name"));
        if (own != NULL && strcmp(own, name) == 0) {
            return model;
        }
    }
    return NULL;
}

/* 0 when there is none. */
static json_int_t wanted_version(const json_t *model, const char *version)
{
    const json_t *versions = json_object_get(model, "versions");
    json_int_t highest = 0;
    json_int_t named = 0;
    const char *alias = version[0] != '\0' ? version : "prod";
    if (version[0] >= '0' && version[0] <= '9') {
        char *end = NULL;
        long number = strtol(version, &end, 10);
        return *end == '\0' ? number : 0;
    }
    for (size_t i = 0; i < json_array_size(versions); i++) {
        const json_t *one = json_array_get(versions, i);
        json_int_t n = json_integer_value(json_object_get(one, "version"));
        highest = n > highest ? n : highest;
        named = has_alias(one, alias) ? n : named;
    }
    return named > 0 || version[0] != '\0' ? named : highest;
}

static bool has_alias(const json_t *version, const char *alias)
{
    const json_t *aliases = json_object_get(version, "aliases");
    for (size_t i = 0; i < json_array_size(aliases); i++) {
        const char *one = json_string_value(json_array_get(aliases, i));
        if (one != NULL && strcmp(one, alias) == 0) {
            return true;
        }
    }
    return false;
}
