/* Runs the simulator over seeds: `SEED=42 TRACE=1` one with its trace, `SEEDS=2000` so many, none a
 * short form. A violation prints its seed and the last lines before it. The first seeds are run
 * twice, and their traces must be equal. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/sim/sim.h"

enum { SHORT_SEEDS = 150, TWICE = 5, SHOWN = 3 };

static const char *const fault_names[] = {
#define SIM_FAULT(symbol, text) text,
#include "tests/sim/faults.def"
#undef SIM_FAULT
};

typedef struct totals {
    uint64_t seeds, steps, jobs, commits, violations, injected[SIM_FAULTS];
    uint64_t failovers, returns, lost_durable;
} totals;

static const sim *current; /* for the handler of a failed assertion in a core */

static void print_lines(const sim *s)
{
    uint64_t from = s->line_count < SIM_TRACE_LINES ? 0 : s->line_count - SIM_TRACE_LINES;
    for (uint64_t i = from; i < s->line_count && !s->does_print; i++) {
        printf("    %s\n", s->lines[i % SIM_TRACE_LINES]);
    }
}

/* NOLINTBEGIN(bugprone-signal-handler) */
/* The process ends here anyway: what can still be said is worth the risk. */
static void on_abort(int number)
{
    (void)number;
    if (current != NULL) {
        printf("seed %llu, step %llu: an assertion of a core has failed\n",
               (unsigned long long)current->seed, (unsigned long long)current->steps);
        print_lines(current);
        (void)fflush(stdout);
    }
    _exit(1);
}
/* NOLINTEND(bugprone-signal-handler) */

static bool run(uint64_t seed, bool does_print, totals *t, uint64_t *hash)
{
    sim *s = sim_new(seed, does_print);
    current = s;
    bool is_ok = sim_live(s);
    if (!is_ok && t->violations < SHOWN) {
        printf("seed %llu, step %llu, %lld ms: %s\n", (unsigned long long)seed,
               (unsigned long long)s->steps, (long long)s->now_ms, s->reason);
        print_lines(s);
        (void)fflush(stdout);
    }
    *hash = s->hash;
    t->seeds++;
    t->steps += s->steps;
    t->jobs += s->stored;
    t->commits += s->commits;
    t->violations += !is_ok;
    t->failovers += s->failovers;
    t->returns += s->returns;
    t->lost_durable += s->lost_durable;
    for (int i = 0; i < SIM_FAULTS; i++) {
        t->injected[i] += s->injected[i];
    }
    current = NULL;
    if (is_ok) { /* a life that was cut short is left as it lies */
        sim_free(s);
    }
    return is_ok;
}

static uint64_t number_of(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text == NULL || *text == '\0' ? otherwise : strtoull(text, NULL, 10);
}

static void print_totals(const totals *t)
{
    printf("sim: %llu seeds, %llu steps, %llu jobs stored, %llu commits, %llu violations\n",
           (unsigned long long)t->seeds, (unsigned long long)t->steps, (unsigned long long)t->jobs,
           (unsigned long long)t->commits, (unsigned long long)t->violations);
    printf("sim: %llu failovers to a replica: %llu acknowledged durable jobs lost; %llu times the "
           "former primary came back\n",
           (unsigned long long)t->failovers, (unsigned long long)t->lost_durable,
           (unsigned long long)t->returns);
    printf("sim: faults:");
    for (int i = 0; i < SIM_FAULTS; i++) {
        printf(" %llu %s%s", (unsigned long long)t->injected[i], fault_names[i],
               i + 1 < SIM_FAULTS ? "," : "\n");
    }
}

static void nothing_acknowledged_is_lost_whatever_fails(void **unused)
{
    (void)unused;
    totals t = {0};
    uint64_t from = number_of("SEED", 1), stop_after = number_of("SIM_STOP", 100);
    uint64_t count = number_of("SEEDS", getenv("SEED") != NULL ? 1 : SHORT_SEEDS);
    for (uint64_t seed = from; seed < from + count && t.violations < stop_after; seed++) {
        uint64_t hash, again;
        bool is_ok = run(seed, number_of("TRACE", 0) != 0, &t, &hash);
        if (is_ok && seed < from + TWICE) {
            (void)run(seed, false, &t, &again);
            printf("sim: seed %llu has the trace %016llx\n", (unsigned long long)seed,
                   (unsigned long long)hash);
            assert_true(hash == again);
        }
    }
    print_totals(&t);
    assert_true(t.violations == 0);
}

int main(void)
{
    (void)signal(SIGABRT, on_abort);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_acknowledged_is_lost_whatever_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
