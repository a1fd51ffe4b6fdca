/* The levels above the jobs that wait: strands, flows and lanes (mq_lane in state.h says what each
 * stands for). A job's strand is found by one lookup; the others follow from it. It must not know
 * why a strand is blocked (limit.c). */
#include "broker/core/state.h"

/* What makes a lane, and with tenant and key a strand. */
typedef struct way {
    uint32_t queue, kind, model, needs, tenant, key;
    bool is_gang, is_transient;
} way;

typedef struct flow_key {
    uint32_t lane, tenant;
} flow_key;

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * UINT64_C(0xbf58476d1ce4e5b9);
    return h ^ h >> 29;
}

static uint32_t hash_lane(const way *k)
{
    uint64_t h = mix((uint64_t)k->queue << 32 | k->kind, (uint64_t)k->model << 32 | k->needs);
    h = mix(h, (k->is_gang ? 1U : 0U) | (k->is_transient ? 2U : 0U));
    return (uint32_t)(h >> 32);
}

static uint32_t hash_strand(const way *k)
{
    return (uint32_t)(mix(hash_lane(k), (uint64_t)k->tenant << 32 | k->key) >> 32);
}

static uint32_t hash_flow(flow_key k)
{
    return (uint32_t)(mix(0, (uint64_t)k.lane << 32 | k.tenant) >> 32);
}

static way way_of_lane(const mq_lane *l)
{
    return (way){.queue = l->queue,
                 .kind = l->kind,
                 .model = l->model,
                 .needs = l->needs,
                 .is_gang = l->is_gang,
                 .is_transient = l->is_transient};
}

static way way_of_strand(const mq_core *core, const mq_strand *s)
{
    const mq_flow *flow = &core->flows[s->flow];
    way k = way_of_lane(&core->lanes[flow->lane]);
    k.tenant = flow->tenant;
    k.key = s->key;
    return k;
}

static way way_of_job(const mq_job *job)
{
    return (way){.queue = job->queue,
                 .kind = job->kind,
                 .model = job->is_transient ? job->model : 0,
                 .needs = job->needs,
                 .tenant = job->tenant,
                 .key = job->key,
                 .is_gang = job->seats_max > 0,
                 .is_transient = job->is_transient};
}

static bool same_lane(const way *a, const way *b)
{
    return a->queue == b->queue && a->kind == b->kind && a->model == b->model &&
           a->needs == b->needs && a->is_gang == b->is_gang && a->is_transient == b->is_transient;
}

static uint32_t lane_hash(const mq_core *core, uint32_t value)
{
    way k = way_of_lane(&core->lanes[value]);
    return hash_lane(&k);
}

static bool lane_is(const mq_core *core, uint32_t value, const void *key)
{
    way k = way_of_lane(&core->lanes[value]);
    return same_lane(&k, key);
}

static uint32_t flow_hash(const mq_core *core, uint32_t value)
{
    return hash_flow((flow_key){core->flows[value].lane, core->flows[value].tenant});
}

static bool flow_is(const mq_core *core, uint32_t value, const void *key)
{
    const flow_key *k = key;
    return core->flows[value].lane == k->lane && core->flows[value].tenant == k->tenant;
}

static uint32_t strand_hash(const mq_core *core, uint32_t value)
{
    way k = way_of_strand(core, &core->strands[value]);
    return hash_strand(&k);
}

static bool strand_is(const mq_core *core, uint32_t value, const void *key)
{
    const way *want = key;
    way k = way_of_strand(core, &core->strands[value]);
    return same_lane(&k, want) && k.tenant == want->tenant && k.key == want->key;
}

void mq_lane_init(mq_core *core)
{
    core->lane_index.hash_of = lane_hash;
    core->flow_index.hash_of = flow_hash;
    core->strand_index.hash_of = strand_hash;
}

/* ---- making ---- */

void mq_lane_refresh(mq_core *core, mq_lane *lane)
{
    lane->is_paused = mq_queue_is_paused(core, mq_name_text(core, lane->queue)) ||
                      mq_kind_is_paused(core, mq_name_text(core, lane->kind));
    lane->limits[0] = core->names[lane->queue].limits[MQ_LIMIT_QUEUE];
    lane->limits[1] = core->names[lane->kind].limits[MQ_LIMIT_KIND];
    lane->is_limited = (lane->limits[0] | lane->limits[1]) != 0;
}

static uint32_t take_lane(mq_core *core, const way *k)
{
    uint32_t no = mq_index_find(core, &core->lane_index, hash_lane(k), lane_is, k);
    if (no != MQ_NONE) {
        return no;
    }
    no = MQ_TAKE(core, lane, lanes, mq_lane);
    if (no == MQ_NONE) {
        return MQ_NONE;
    }
    mq_lane *lane = &core->lanes[no];
    *lane = (mq_lane){.is_used = true,
                      .is_gang = k->is_gang,
                      .is_transient = k->is_transient,
                      .queue = k->queue,
                      .kind = k->kind,
                      .model = k->model,
                      .needs = k->needs,
                      .root = MQ_NONE};
    mq_name_hold(core, k->queue);
    mq_name_hold(core, k->kind);
    mq_name_hold(core, k->model);
    mq_name_hold(core, k->needs);
    bool is_known = mq_lane_needs(core, lane);
    MQ_ASSERT(is_known); /* has_room */
    mq_lane_refresh(core, lane);
    mq_index_put(core, &core->lane_index, no);
    return no;
}

static uint32_t take_flow(mq_core *core, uint32_t lane, uint32_t tenant)
{
    flow_key key = {lane, tenant};
    uint32_t no = mq_index_find(core, &core->flow_index, hash_flow(key), flow_is, &key);
    if (no != MQ_NONE) {
        return no;
    }
    no = MQ_TAKE(core, flow, flows, mq_flow);
    if (no == MQ_NONE) {
        return MQ_NONE;
    }
    core->flows[no] = (mq_flow){.is_used = true, .lane = lane, .tenant = tenant, .root = MQ_NONE};
    mq_name_hold(core, tenant);
    mq_index_put(core, &core->flow_index, no);
    core->lanes[lane].flow_count++;
    return no;
}

static void give_lane(mq_core *core, uint32_t no)
{
    mq_lane *lane = &core->lanes[no];
    MQ_ASSERT(lane->flow_count == 0 && lane->root == MQ_NONE);
    mq_index_remove(core, &core->lane_index, no);
    mq_name_drop(core, lane->queue);
    mq_name_drop(core, lane->kind);
    mq_name_drop(core, lane->model);
    mq_name_drop(core, lane->needs);
    mq_lane_needs_drop(core, lane);
    lane->is_used = false;
    lane->next_free = mq_slots_give(&core->lane_slots, no);
}

static void give_flow(mq_core *core, uint32_t no)
{
    mq_flow *flow = &core->flows[no];
    uint32_t lane = flow->lane;
    MQ_ASSERT(flow->strand_count == 0 && flow->root == MQ_NONE && !flow->node.is_in);
    mq_index_remove(core, &core->flow_index, no);
    mq_name_drop(core, flow->tenant);
    flow->is_used = false;
    flow->next_free = mq_slots_give(&core->flow_slots, no);
    if (--core->lanes[lane].flow_count == 0) {
        give_lane(core, lane);
    }
}

/* All strands, flows and lanes are there, or none of them new. */
static bool has_room(const mq_core *core)
{
    return mq_slots_has(&core->strand_slots, 1) && mq_slots_has(&core->flow_slots, 1) &&
           mq_slots_has(&core->lane_slots, 1) && mq_slots_has(&core->limit_slots, 1) &&
           mq_slots_has(&core->name_slots, MQ_NEEDS_TAGS_MAX) && mq_pool_has(&core->pool, 4096);
}

uint32_t mq_strand_take(mq_core *core, const mq_job *job)
{
    way k = way_of_job(job);
    uint32_t no = core->strand_hint; /* nearly every job goes where the one before it went */
    if (no < core->strand_slots.high && core->strands[no].is_used && strand_is(core, no, &k)) {
        return no;
    }
    no = mq_index_find(core, &core->strand_index, hash_strand(&k), strand_is, &k);
    if (no != MQ_NONE) {
        core->strand_hint = no;
        return no;
    }
    if (!has_room(core)) {
        return MQ_NONE;
    }
    uint32_t flow = take_flow(core, take_lane(core, &k), k.tenant);
    no = MQ_TAKE(core, strand, strands, mq_strand);
    core->strands[no] = (mq_strand){.is_used = true,
                                    .flow = flow,
                                    .key = k.key,
                                    .root = MQ_NONE,
                                    .blocked_prev = MQ_NONE,
                                    .blocked_next = MQ_NONE};
    core->flows[flow].strand_count++;
    mq_name_hold(core, k.key);
    mq_index_put(core, &core->strand_index, no);
    if (k.key != 0) {
        mq_limit_join(core, no);
    }
    return no;
}

/* ---- order ---- */

static mq_tree strands_of(const mq_core *core)
{
    return (mq_tree){(uint8_t *)&core->strands[0].node, sizeof(mq_strand)};
}

static mq_tree flows_of(const mq_core *core)
{
    return (mq_tree){(uint8_t *)&core->flows[0].node, sizeof(mq_flow)};
}

mq_lane *mq_lane_of(mq_core *core, const mq_strand *strand)
{
    return &core->lanes[core->flows[strand->flow].lane];
}

static uint32_t rank_of(uint64_t age)
{
    return (uint32_t)(age >> MQ_AGE_BITS);
}

/* Alone in its heap: whatever its keys are, its place is the same. */
static bool is_alone(const mq_node *node, uint32_t root, uint32_t no)
{
    return node->is_in && root == no && node->child == MQ_NONE;
}

/* The flow's place in its lane follows its first ready strand and its tenant's start tag: when the
 * last start of this priority ends, or now for a flow that has just got something to do there. */
static void place_flow(mq_core *core, uint32_t no)
{
    mq_flow *flow = &core->flows[no];
    mq_lane *lane = &core->lanes[flow->lane];
    uint64_t age = flow->root == MQ_NONE ? 0 : core->strands[flow->root].node.age;
    uint32_t rank = rank_of(age);
    bool has_tag = flow->node.is_in && rank_of(flow->node.age) == rank;
    uint64_t tag = has_tag ? flow->node.tag : core->virtual_now[rank];
    if (tag < core->names[flow->tenant].finish[rank]) {
        tag = core->names[flow->tenant].finish[rank];
    }
    if (flow->node.is_in && flow->root != MQ_NONE &&
        ((flow->node.tag == tag && flow->node.age == age) ||
         is_alone(&flow->node, lane->root, no))) {
        flow->node.tag = tag;
        flow->node.age = age;
        return;
    }
    if (flow->node.is_in) {
        lane->root = mq_tree_remove(flows_of(core), lane->root, no);
    }
    if (flow->root != MQ_NONE) {
        flow->node.tag = tag;
        flow->node.age = age;
        lane->root = mq_tree_add(flows_of(core), lane->root, no);
    }
}

void mq_strand_place(mq_core *core, uint32_t no)
{
    mq_strand *strand = &core->strands[no];
    mq_flow *flow = &core->flows[strand->flow];
    bool is_ready = !strand->is_blocked && strand->root != MQ_NONE;
    if (is_ready && is_alone(&strand->node, flow->root, no)) {
        strand->node.age = mq_lane_key(&core->jobs[strand->root]);
        place_flow(core, strand->flow);
        return;
    }
    if (strand->node.is_in) {
        flow->root = mq_tree_remove(strands_of(core), flow->root, no);
    }
    if (is_ready) {
        strand->node.tag = 0;
        strand->node.age = mq_lane_key(&core->jobs[strand->root]);
        flow->root = mq_tree_add(strands_of(core), flow->root, no);
    }
    place_flow(core, strand->flow);
}

void mq_strand_give(mq_core *core, uint32_t no)
{
    mq_strand *strand = &core->strands[no];
    uint32_t flow = strand->flow;
    MQ_ASSERT(strand->count == 0);
    if (strand->limit != 0) {
        mq_limit_part(core, no);
    }
    mq_strand_place(core, no);
    mq_index_remove(core, &core->strand_index, no);
    mq_name_drop(core, strand->key);
    strand->is_used = false;
    strand->next_free = mq_slots_give(&core->strand_slots, no);
    if (--core->flows[flow].strand_count == 0) {
        give_flow(core, flow);
    }
}

/* A tenant's tag grows with every start in any lane; a flow that was placed before is put right
 * when it comes to the top, so a start costs no more than one repair in each lane. */
const mq_flow *mq_lane_flow(mq_core *core, mq_lane *lane)
{
    while (lane->root != MQ_NONE) {
        uint32_t no = lane->root;
        const mq_flow *flow = &core->flows[no];
        if (flow->node.tag >= core->names[flow->tenant].finish[rank_of(flow->node.age)]) {
            return flow;
        }
        place_flow(core, no);
    }
    return NULL;
}
