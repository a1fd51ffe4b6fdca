/* Load time and resident memory of one model, on our side or the peer's, in processes of their own:
 * alone, and what a second process of the same model adds. */
#ifndef MQ_TESTS_BENCH_PEER_RESIDENT_H
#define MQ_TESTS_BENCH_PEER_RESIDENT_H

#include <stdbool.h>

typedef struct resident {
    double load_ms;  /* file to session, packed weights in the cache when they are ours */
    double first_ms; /* file to the first answer */
    double cold_ms;  /* the same without a cache file: the first load on a host */
    double cold_first_ms;
    double one_kib;  /* resident size of one process */
    double more_kib; /* what a second one adds (proportional set size) */
} resident;

/* What a child does: loads, runs once, says its figures, waits for the end of its standard input.
 * packs: folder for packed weights, or NULL. peer: path of the peer's library, or NULL for ours.
 * Exit status. */
int resident_child(const char *file, const char *peer, bool own_kernels, const char *packs);

/* Starts this program again, twice, as `--child FILE [--own] [--peer LIBRARY] [--packs DIR]`;
 * ours once more before, for the cold figures. */
bool resident_measure(const char *file, const char *peer, bool own_kernels, resident *out);

#endif
