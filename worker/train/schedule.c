/* Schedules; see schedule.h. Plain arithmetic: libm's cos differs between CPUs. */
#include "worker/train/schedule.h"

#include "worker/train/optimizer.h"

static const struct {
    const char *name;
    bool warms;
} rows[] = {
#define MQ_SCHEDULE(symbol, name, warms) [MQ_SCHEDULE_##symbol] = {name, warms},
#include "worker/train/schedule.def"
#undef MQ_SCHEDULE
};

static const double pi = 3.14159265358979323846;

const char *mq_schedule_name(mq_schedule schedule)
{
    return rows[schedule].name;
}

bool mq_schedule_warms(mq_schedule schedule)
{
    return rows[schedule].warms;
}

/* cos(x) for 0 <= x <= pi. */
static double own_cos(double x)
{
    double sign = 1;
    if (x > pi / 2) {
        x = pi - x;
        sign = -1;
    }
    double sum = 0, term = 1;
    for (int k = 1; k <= 12; k++) {
        sum += term;
        term *= -x * x / (double)((2 * k - 1) * (2 * k));
    }
    return sign * sum;
}

/* From a to b along half a cosine, x in 0..1. */
static double anneal(double a, double b, double x)
{
    return b + (a - b) * 0.5 * (1 + own_cos(pi * x));
}

static double one_cycle(double step, double steps)
{
    const double first = 1.0 / 25, last = first / 10000;
    double top = 0.3 * steps - 1, end = steps - 1;
    if (step <= top) {
        return anneal(first, 1, top > 0 ? step / top : 1);
    }
    return anneal(1, last, end > top ? (step - top) / (end - top) : 1);
}

double mq_schedule_factor(const mq_schedule_spec *spec, uint64_t step, uint64_t steps,
                          uint64_t steps_per_epoch)
{
    uint64_t warm = spec->warmup_steps;
    if (step < warm) {
        return (double)(step + 1) / (double)warm;
    }
    double x = (double)(step - warm), total = (double)(steps > warm ? steps - warm : 1);
    switch (spec->schedule) {
    case MQ_SCHEDULE_COSINE:
        return 0.5 * (1 + own_cos(pi * x / total));
    case MQ_SCHEDULE_LINEAR:
        return 1 - x / total;
    case MQ_SCHEDULE_STEP:
        return mq_power(spec->gamma, step / steps_per_epoch / spec->step_epochs);
    case MQ_SCHEDULE_ONE_CYCLE:
        return one_cycle((double)step, (double)steps);
    case MQ_SCHEDULE_CONSTANT:
    case MQ_SCHEDULE_COUNT:
        break;
    }
    return 1;
}
