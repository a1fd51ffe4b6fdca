/* What several pages show of the fleet. */
#ifndef MQ_CLI_FLEET_H
#define MQ_CLI_FLEET_H

#include "client/cli/cli.h"

/* Prints the answer to "queues" as a table. */
void mq_fleet_queues(const json_t *answer);

/* Prints the answer to "models" as a table: latest version, accuracy, aliases (model.c). */
void mq_fleet_models(const json_t *answer);

/* The last 60 points of a training's loss curve as a line of eight levels of bars; nothing for less
 * than two. */
void mq_fleet_curve(const json_t *curve);

#endif
