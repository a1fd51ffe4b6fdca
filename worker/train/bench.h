/* `maasq-worker --local bench-train`: what training costs against the bare matrix products.
 *
 *   --json        one JSON object a line (DESIGN.md section 12) instead of a table
 *   --rounds N    alternations of {bare GEMMs, 1 worker, 2 workers}, 3..99, default 7
 *   --steps N     training steps a measurement, 50..100000, default 468 (two epochs)
 *
 * The manifest is one: MLP 784-256-128-10, batch 256, S = 8, real Fashion-MNIST when its Debian
 * package is installed, else bytes from a fixed generator. Workers are forked processes with a
 * shared segment that run the train kind itself. Call from a process with one thread. */
#ifndef MQ_WORKER_TRAIN_BENCH_H
#define MQ_WORKER_TRAIN_BENCH_H

/* argv[0] is the first option. Returns the exit status: 0, 1 (failed), 2 (usage). */
int mq_bench_train(int argc, char **argv);

#endif
