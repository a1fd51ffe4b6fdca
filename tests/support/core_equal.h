/* Whether what a core knows besides its jobs - versions, aliases, pauses, quarantines, limits,
 * tenants, recurring jobs - is what its store holds. */
#ifndef MQ_TESTS_SUPPORT_CORE_EQUAL_H
#define MQ_TESTS_SUPPORT_CORE_EQUAL_H

#include "broker/core/core.h"

/* How many entries the core shows. */
static inline uint32_t core_entries(const mq_core *core, uint32_t registry_max)
{
    uint32_t count = 0;
    mq_entry_view view;
    for (uint32_t i = 0; i < registry_max; i++) {
        count += mq_core_entry(core, i, &view);
    }
    return count;
}

/* A stored entry that says that there is none any more: the core does not show it. */
static inline bool core_is_tombstone(mq_span value)
{
    static mq_entry entry;
    return mq_entry_read(value, &entry, NULL) == MQ_OK && entry.is_deleted;
}

/* True when the core shows an entry of this field with this value, byte by byte; none for a
 * tombstone. */
static inline bool core_has_entry(const mq_core *core, uint32_t registry_max, mq_span field,
                                  mq_span value)
{
    mq_entry_view view;
    char name[MQ_ENTRY_FIELD_MAX];
    for (uint32_t i = 0; i < registry_max; i++) {
        if (mq_core_entry(core, i, &view) &&
            mq_span_eq(mq_span_of(name, mq_entry_field(&view.key, name)), field)) {
            return mq_span_eq(view.value, value) && !core_is_tombstone(value);
        }
    }
    return core_is_tombstone(value);
}

#endif
