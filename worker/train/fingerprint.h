/* Numeric fingerprint: a hash over the results of a fixed battery (matrix products in several
 * shapes and transpositions, some steps of training a small net, a Philox draw). Two processes with
 * equal fingerprints compute equal bits in training; only they may share a gang or reuse each
 * other's results. It sees differences of kernel set, library version, build flags and CPU without
 * naming any of them. Takes some milliseconds. */
#ifndef MQ_WORKER_TRAIN_FINGERPRINT_H
#define MQ_WORKER_TRAIN_FINGERPRINT_H

#include "shared/base/sha256.h"

void mq_fingerprint(char out[MQ_SHA256_HEX]);

#endif
