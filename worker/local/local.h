/* `maasq-worker --local COMMAND ...`: what can be done without a broker, in this process and with
 * the kernels that slots would use. `maasq model check` and `maasq bench` run it. Exit status: 0, 1
 * (failed), 2 (usage). */
#ifndef MQ_WORKER_LOCAL_LOCAL_H
#define MQ_WORKER_LOCAL_LOCAL_H

/* argv[0] is the command. */
int mq_local_main(int argc, char **argv);

/* Each: argv[0] is the first argument after the command. */
int mq_local_check(int argc, char **argv);
int mq_local_run(int argc, char **argv);
int mq_local_bench_infer(int argc, char **argv);
int mq_local_fingerprint(int argc, char **argv);

#endif
