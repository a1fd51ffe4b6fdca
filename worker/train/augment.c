/* Augmentation; see augment.h. Knows neither datasets nor steps. */
#include "worker/train/augment.h"

#include <string.h>

#include "worker/train/fields.h"
#include "worker/train/philox.h"

enum { PLACES_MAX = 32 };

bool mq_augment_is_on(const mq_augment *a)
{
    return a->crop > 0 || a->shift > 0 || a->flip;
}

mq_code mq_augment_read(mq_augment *out, const json_t *o, mq_error *err)
{
    *out = (mq_augment){0};
    mq_code code = mq_field_u32(o, "crop", 0, PLACES_MAX, &out->crop, err);
    code = code != MQ_OK ? code : mq_field_u32(o, "shift", 0, PLACES_MAX, &out->shift, err);
    return code != MQ_OK ? code : mq_field_bool(o, "flip", &out->flip, err);
}

bool mq_augment_write(const mq_augment *a, json_t *o)
{
    return (a->crop == 0 || json_object_set_new(o, "crop", json_integer(a->crop)) == 0) &&
           (a->shift == 0 || json_object_set_new(o, "shift", json_integer(a->shift)) == 0) &&
           (!a->flip || json_object_set_new(o, "flip", json_true()) == 0);
}

mq_code mq_augment_check(const mq_augment *a, const mq_shape *row, mq_error *err)
{
    char text[96];
    if (!mq_augment_is_on(a)) {
        return MQ_OK;
    }
    if (row->rank != 2 && row->rank != 3) {
        return mq_fail(err, MQ_E_ARG,
                       "crop, shift, flip: rows of the data are %s; they must be [height,width] or "
                       "[channels,height,width]",
                       mq_shape_text(row, text, sizeof text));
    }
    int64_t height = row->dims[row->rank - 2], width = row->dims[row->rank - 1];
    int64_t most = a->crop > a->shift ? a->crop : a->shift;
    if (most >= height || most >= width) {
        return mq_fail(err, MQ_E_ARG,
                       "crop, shift: %lld is too much for rows of %s; take less than height and "
                       "width",
                       (long long)most, mq_shape_text(row, text, sizeof text));
    }
    return MQ_OK;
}

/* word scaled to 0..most, both ends in. */
static int64_t draw(uint32_t word, uint32_t most)
{
    return (int64_t)(((uint64_t)word * (most + 1)) >> 32);
}

void mq_augment_row(const mq_augment *a, const mq_shape *shape, uint64_t seed, uint64_t row,
                    uint32_t epoch, float *x, float *own)
{
    int64_t height = shape->dims[shape->rank - 2], width = shape->dims[shape->rank - 1];
    int64_t planes = shape->rank == 3 ? shape->dims[0] : 1;
    mq_philox_block b[2];
    for (uint32_t i = 0; i < 2; i++) {
        b[i] = mq_philox(seed, (uint32_t[4]){i, (uint32_t)row, epoch, MQ_PURPOSE_AUGMENT});
    }
    int64_t less = draw(b[0].word[0], a->crop);
    int64_t top = draw(b[0].word[1], (uint32_t)less), left = draw(b[0].word[2], (uint32_t)less);
    int64_t down = draw(b[1].word[0], 2 * a->shift) - a->shift;
    int64_t right = draw(b[1].word[1], 2 * a->shift) - a->shift;
    bool is_flipped = a->flip && (b[1].word[2] & 1) != 0;
    memcpy(own, x, (size_t)(planes * height * width) * sizeof *x);
    for (int64_t p = 0; p < planes; p++, own += height * width) {
        for (int64_t i = 0; i < height; i++) {
            for (int64_t k = 0; k < width; k++) {
                int64_t y = i - down, z = (is_flipped ? width - 1 - k : k) - right;
                bool is_in = y >= 0 && y < height && z >= 0 && z < width;
                int64_t from_y = top + y * (height - less) / height;
                int64_t from_z = left + z * (width - less) / width;
                *x++ = is_in ? own[from_y * width + from_z] : 0.0F;
            }
        }
    }
}
