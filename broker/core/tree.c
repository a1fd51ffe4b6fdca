/* Pairing heaps over elements of an array that embed an mq_node (M. Fredman et al., "The pairing
 * heap", Algorithmica 1, 1986): add in constant time, remove in logarithmic time on average. Order:
 * priority, then fairness tag, then age. It must not know what its elements are. */
#include "broker/core/state.h"

static mq_node *at(mq_tree tree, uint32_t i)
{
    return (mq_node *)(void *)(tree.base + (size_t)i * tree.stride);
}

/* The upper bits of age hold the priority (mq_lane_key). */
bool mq_node_before(const mq_node *a, const mq_node *b)
{
    uint64_t pa = a->age >> MQ_AGE_BITS;
    uint64_t pb = b->age >> MQ_AGE_BITS;
    if (pa != pb) {
        return pa < pb;
    }
    return a->tag != b->tag ? a->tag < b->tag : a->age < b->age;
}

static uint32_t meld(mq_tree tree, uint32_t a, uint32_t b)
{
    if (a == MQ_NONE || b == MQ_NONE) {
        return a == MQ_NONE ? b : a;
    }
    if (mq_node_before(at(tree, b), at(tree, a))) {
        uint32_t t = a;
        a = b;
        b = t;
    }
    mq_node *top = at(tree, a);
    mq_node *low = at(tree, b);
    low->prev = a;
    low->next = top->child;
    if (top->child != MQ_NONE) {
        at(tree, top->child)->prev = b;
    }
    top->child = b;
    top->next = top->prev = MQ_NONE;
    return a;
}

/* Joins a list of siblings in two passes: pairs from the left, then all from the right. */
static uint32_t meld_list(mq_tree tree, uint32_t first)
{
    uint32_t pairs = MQ_NONE; /* linked by next, last pair first */
    while (first != MQ_NONE) {
        uint32_t a = first;
        uint32_t b = at(tree, a)->next;
        first = b == MQ_NONE ? MQ_NONE : at(tree, b)->next;
        at(tree, a)->next = at(tree, a)->prev = MQ_NONE;
        if (b != MQ_NONE) {
            at(tree, b)->next = at(tree, b)->prev = MQ_NONE;
        }
        uint32_t m = meld(tree, a, b);
        at(tree, m)->next = pairs;
        pairs = m;
    }
    uint32_t root = MQ_NONE;
    while (pairs != MQ_NONE) {
        uint32_t next = at(tree, pairs)->next;
        at(tree, pairs)->next = MQ_NONE;
        root = meld(tree, root, pairs);
        pairs = next;
    }
    return root;
}

uint32_t mq_tree_add(mq_tree tree, uint32_t root, uint32_t i)
{
    mq_node *node = at(tree, i);
    MQ_ASSERT(!node->is_in);
    node->is_in = true;
    node->child = node->next = node->prev = MQ_NONE;
    return meld(tree, root, i);
}

uint32_t mq_tree_remove(mq_tree tree, uint32_t root, uint32_t i)
{
    mq_node *node = at(tree, i);
    MQ_ASSERT(node->is_in && root != MQ_NONE);
    uint32_t below = meld_list(tree, node->child);
    if (root == i) {
        root = below;
    } else {
        mq_node *prev = at(tree, node->prev);
        *(prev->child == i ? &prev->child : &prev->next) = node->next;
        if (node->next != MQ_NONE) {
            at(tree, node->next)->prev = node->prev;
        }
        root = meld(tree, root, below);
    }
    node->is_in = false;
    node->child = node->next = node->prev = MQ_NONE;
    return root;
}
