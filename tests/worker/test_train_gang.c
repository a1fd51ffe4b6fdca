/* The promise of training: the same manifest gives the same bits, on any number of members, by any
 * transport, whoever is killed or joins on the way. Members are real processes. */
#include "tests/worker/train_fixture.h"

#include <math.h>

#include "shared/base/clock.h"
#include "worker/models/builder.h"
#include "worker/train/philox.h"

static const char plain[] = "\"lr\":0.05,\"schedule\":\"constant\"";
static const char manifest[] = "{\"model\":\"m\",\"data\":\"d\",\"init\":{%s},\"epochs\":%u,"
                               "\"batch\":64,\"shards\":8,%s,\"mode\":\"%s\","
                               "\"run\":{\"commit_ms\":10,\"progress_ms\":0,\"transport\":\"%s\"}}";

typedef struct trial {
    uint32_t members, epochs;
    const char *mode, *transport;
    bool keep_checkpoint;
    const char *recipe; /* NULL = plain */
    const char *init;   /* NULL = an mlp */
} trial;

static char body[1024];
static mq_forked_outcome outcome;

static void start(fixture *f, const trial *t)
{
    mq_error err = {MQ_OK, ""};
    (void)snprintf(body, sizeof body, manifest,
                   t->init == NULL ? "\"arch\":\"mlp:20-24-16-4\"" : t->init, t->epochs,
                   t->recipe == NULL ? plain : t->recipe, t->mode, t->transport);
    mq_forked_job job = {
        .run = mq_kind_run_train,
        .body = mq_str(body),
        .is_spread = strcmp(t->transport, "message") == 0,
        .keep_checkpoint = t->keep_checkpoint,
        .memory_bytes_max = (size_t)512 << 20,
    };
    assert_int_equal(mq_forked_gang_start(f->gang, &job, t->members, &err), MQ_OK);
}

/* Weights hash and chain of the published model. */
typedef struct proof {
    char weights[MQ_SHA256_HEX], chain[MQ_SHA256_HEX], manifest[MQ_SHA256_HEX];
} proof;

static void finish(fixture *f, proof *out)
{
    mq_error err = {MQ_OK, ""};
    mq_code code = mq_forked_gang_wait(f->gang, FX_TIMEOUT_MS, &outcome, &err);
    if (code != MQ_OK || outcome.code != MQ_OK) {
        fail_msg("%s %s (%u deaths, %u epochs)", err.text, outcome.error, outcome.deaths,
                 outcome.epochs);
    }
    fx_field(outcome.result, "weights_hash", out->weights, sizeof out->weights);
    fx_field(outcome.result, "chain", out->chain, sizeof out->chain);
    fx_field(outcome.result, "manifest", out->manifest, sizeof out->manifest);
    assert_non_null(strstr(outcome.published, "model m {"));
    assert_non_null(strstr(outcome.published, "memo "));
}

static void same(const proof *a, const proof *b)
{
    assert_string_equal(a->manifest, b->manifest);
    assert_string_equal(a->weights, b->weights);
    assert_string_equal(a->chain, b->chain);
}

static const trial alone = {1, 3, "gang", "auto", false, NULL, NULL};

static const proof *expected(fixture *f)
{
    static proof p;
    if (p.weights[0] == '\0') {
        start(f, &alone);
        finish(f, &p);
    }
    return &p;
}

static void any_number_of_members_and_any_transport_gives_one_hash(void **state)
{
    static const uint32_t members[] = {1, 2, 3, 5, 8, 9};
    static const char *const transports[] = {"shm", "message"};
    for (size_t w = 0; w < 6; w++) {
        for (size_t i = 0; i < 2; i++) {
            proof p;
            trial t = {members[w], 3, "gang", transports[i], false, NULL, NULL};
            start(*state, &t);
            finish(*state, &p);
            same(&p, expected(*state));
        }
    }
}

/* Every optimizer with everything else that a recipe may hold, over ways to share the work. */
static void every_recipe_gives_one_hash_however_it_is_shared(void **state)
{
    static const char *const recipes[] = {
        ("\"optimizer\":\"sgd\",\"nesterov\":true,\"weight_decay\":0.01,\"schedule\":\"step\","
         "\"step_epochs\":1,\"clip_norm\":0.5"),
        "\"optimizer\":\"adam\",\"clip_norm\":0.1,\"clip_value\":0.01,\"label_smoothing\":0.1",
        "\"optimizer\":\"adamw\",\"weight_decay\":0.1,\"warmup_steps\":7,\"schedule\":\"linear\"",
        "\"optimizer\":\"rmsprop\",\"schedule\":\"one-cycle\",\"class_weights\":[1,2,0.5,3]",
        "\"optimizer\":\"adagrad\",\"loss\":\"hinge\"",
        "\"optimizer\":\"lamb\",\"weight_decay\":0.01,\"clip_norm\":1",
    };
    static const struct {
        uint32_t members;
        const char *mode, *transport;
    } ways[] = {{2, "gang", "shm"}, {3, "gang", "message"}, {3, "pipeline:3", "auto"}};
    for (size_t r = 0; r < sizeof recipes / sizeof recipes[0]; r++) {
        proof want, p;
        trial t = {1, 2, "gang", "auto", false, recipes[r], NULL};
        start(*state, &t);
        finish(*state, &want);
        for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
            trial other = {ways[i].members, 2,          ways[i].mode, ways[i].transport,
                           false,           recipes[r], NULL};
            mq_forked_gang_kill_at(((fixture *)*state)->gang, 1, i == 0 ? 20 : 0);
            start(*state, &other);
            finish(*state, &p);
            same(&p, &want);
        }
    }
}

/* A net with a convolution, BatchNorm, pooling and Dropout as a blob of the fixture; out: its hash.
 */
static void put_net(const fixture *f, char blob[MQ_SHA256_HEX])
{
    mq_error err = {MQ_OK, ""};
    mq_builder b = {.seed = 3, .err = &err};
    char path[160];
    mq_buf bytes;
    mq_buf_init(&bytes, 1 << 20);
    assert_int_equal(mq_model_new(&b.model, "net", 0, &err), MQ_OK);
    mq_built x = mq_build_input(&b, 3, (const int64_t[]){1, 4, 5});
    x = mq_build_conv(&b, "conv", x, 1, 6, (mq_window){3, 1, 1}, false);
    x = mq_build_batch_norm(&b, "norm", x, 6);
    x = mq_build_one(&b, "Relu", "relu", x);
    x = mq_build_max_pool(&b, "pool", x, (mq_window){2, 2, 0});
    x = mq_build_one(&b, "Flatten", "flatten", x);
    x = mq_build_two(&b, "Dropout", "drop", x, mq_build_real(&b, "drop", "ratio", 0.25F));
    (void)mq_build_gemm(&b, "fc", x, 6 * 2 * 2, FX_CLASSES, MQ_FIRST_XAVIER);
    mq_build_output(&b, "logits", FX_CLASSES);
    assert_int_equal(b.code, MQ_OK);
    assert_int_equal(mq_model_save(b.model, &bytes, &err), MQ_OK);
    mq_sha256_hex_of(mq_buf_span(&bytes), blob);
    (void)snprintf(path, sizeof path, "%s/%s", f->dir, blob);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes.data, 1, bytes.len, file), bytes.len);
    fclose(file);
    mq_buf_release(&bytes);
    mq_model_free(b.model);
}

/* Moments of BatchNorm and what Dropout draws, too, follow from the manifest alone; and so do
 * attention's sums. */
static void nets_of_all_kinds_give_one_hash_however_they_are_shared(void **state)
{
    char blob[MQ_SHA256_HEX], init[128];
    put_net(*state, blob);
    (void)snprintf(init, sizeof init, "\"blob\":\"%s\"", blob);
    const char *const inits[] = {init, "\"arch\":\"transformer:5-4-1-8-2-4\""};
    static const struct {
        uint32_t members;
        const char *mode, *transport;
    } ways[] = {{2, "gang", "shm"}, {3, "gang", "message"}, {2, "pipeline:2", "auto"}};
    for (size_t n = 0; n < 2; n++) {
        proof want, p;
        const char *recipe = n == 0 ? NULL : "\"optimizer\":\"adam\"";
        trial t = {1, 3, "gang", "auto", false, recipe, inits[n]};
        start(*state, &t);
        finish(*state, &want);
        for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
            trial other = {ways[i].members, 3,      ways[i].mode, ways[i].transport,
                           false,           recipe, inits[n]};
            mq_forked_gang_kill_at(((fixture *)*state)->gang, 1, i == 0 ? 25 : 0);
            start(*state, &other);
            finish(*state, &p);
            same(&p, &want);
        }
    }
}

static void training_learns(void **state)
{
    proof p;
    trial t = {2, 40, "gang", "auto", false, NULL, NULL};
    start(*state, &t);
    finish(*state, &p);
    const char *at = strstr(outcome.result, "\"train_accuracy\":");
    assert_non_null(at);
    assert_true(strtod(at + strlen("\"train_accuracy\":"), NULL) > 0.9);
    assert_non_null(strstr(outcome.result, "\"steps_run\":400"));
    assert_non_null(strstr(outcome.result, "\"workers_seen\":2"));
    assert_non_null(strstr(outcome.progress, "\"step\":400,\"steps\":400"));
    assert_non_null(strstr(outcome.progress, "\"curve\":[{"));
    assert_true(outcome.checkpoint_step == 400);
}

/* Kills at moments drawn from all host calls of a run, one or two members of three. */
static void kills(fixture *f, const char *mode, const char *transport, uint32_t rounds,
                  uint64_t seed)
{
    const char *wanted = getenv("MAASQ_SEED");
    mq_prng prng = {wanted == NULL ? seed : seed + strtoull(wanted, NULL, 10)};
    proof p;
    trial t = {3, 3, mode, transport, false, NULL, NULL};
    uint32_t deaths = 0;
    uint64_t calls[3];
    start(f, &t);
    finish(f, &p);
    memcpy(calls, outcome.calls, sizeof calls);
    for (uint32_t round = 0; round < rounds; round++) {
        uint32_t first = (uint32_t)mq_prng_below(&prng, 3), second = (first + 1) % 3;
        mq_forked_gang_kill_at(f->gang, first, 1 + mq_prng_below(&prng, calls[first] * 3 / 4));
        if (round % 2 == 1) {
            mq_forked_gang_kill_at(f->gang, second, 1 + mq_prng_below(&prng, calls[second]));
        }
        start(f, &t);
        finish(f, &p);
        same(&p, expected(f));
        deaths += outcome.deaths;
    }
    print_message("%u deaths in %u runs (%s, %s)\n", deaths, rounds, mode, transport);
    assert_true(deaths >= rounds / 2);
}

static void killed_members_change_nothing_by_shared_memory(void **state)
{
    kills(*state, "gang", "shm", 24, 1);
}

static void killed_members_change_nothing_by_messages(void **state)
{
    kills(*state, "gang", "message", 24, 2);
}

static void members_may_join_in_the_middle(void **state)
{
    fixture *f = *state;
    static const char *const transports[] = {"shm", "message"};
    for (size_t i = 0; i < 2; i++) {
        proof p, q;
        trial t = {1, 60, "gang", transports[i], false, NULL, NULL};
        start(f, &t);
        finish(f, &q);
        start(f, &t);
        for (uint32_t joins = 0; joins < 3; joins++) {
            int64_t until_ms = mq_clock_mono_ms() + FX_TIMEOUT_MS;
            while (mq_forked_gang_calls(f->gang, joins) < 100 && mq_clock_mono_ms() < until_ms) {
                (void)mq_forked_gang_turn(f->gang);
            }
            assert_int_equal(mq_forked_gang_join(f->gang, NULL), MQ_OK);
        }
        finish(f, &p);
        same(&p, &q);
        assert_true(outcome.epochs >= 4);
    }
}

static void a_run_whose_members_all_died_goes_on_from_its_checkpoint(void **state)
{
    fixture *f = *state;
    for (uint64_t call = 150; call < 400; call += 60) {
        proof p;
        trial t = {2, 3, "gang", "auto", false, NULL, NULL};
        mq_forked_gang_kill_at(f->gang, 0, call);
        mq_forked_gang_kill_at(f->gang, 1, call);
        start(f, &t);
        assert_int_equal(mq_forked_gang_wait(f->gang, FX_TIMEOUT_MS, &outcome, NULL), MQ_OK);
        if (outcome.code == MQ_OK) {
            continue; /* done before the moment came */
        }
        assert_int_equal(outcome.deaths, 2);
        t.keep_checkpoint = true;
        start(f, &t);
        finish(f, &p);
        same(&p, expected(f));
    }
}

static void a_pipeline_of_any_depth_gives_the_hash_of_a_gang(void **state)
{
    static const char *const modes[] = {"pipeline:1", "pipeline:2", "pipeline:3", "pipeline:2"};
    static const uint32_t members[] = {1, 2, 3, 3};
    static const char *const transports[] = {"auto", "message"};
    for (size_t i = 0; i < 8; i++) {
        proof p;
        trial t = {members[i % 4], 3, modes[i % 4], transports[i / 4], false, NULL, NULL};
        start(*state, &t);
        finish(*state, &p);
        same(&p, expected(*state));
    }
}

static void killed_stages_change_nothing(void **state)
{
    kills(*state, "pipeline:3", "auto", 12, 3);
}

static void a_hung_member_is_reported_and_replaced(void **state)
{
    fixture *f = *state;
    proof p, q;
    trial t = {2, 200, "gang", "auto", false, NULL, NULL};
    start(f, &t);
    finish(f, &q);
    start(f, &t);
    int64_t until_ms = mq_clock_mono_ms() + FX_TIMEOUT_MS;
    while (mq_forked_gang_calls(f->gang, 1) < 100 && mq_clock_mono_ms() < until_ms) {
        (void)mq_forked_gang_turn(f->gang);
    }
    mq_forked_gang_stop(f->gang, 1);
    finish(f, &p);
    same(&p, &q);
    assert_int_equal(outcome.deaths, 1);
}

/* Members lose their cores again and again, in the middle of whatever they do. */
static void members_that_pause_change_nothing(void **state)
{
    fixture *f = *state;
    mq_prng prng = {5};
    for (uint32_t members = 2; members <= 4; members++) {
        proof p, q;
        trial t = {members, 30, "gang", "shm", false, NULL, NULL};
        start(f, &t);
        finish(f, &q);
        start(f, &t);
        while (!mq_forked_gang_turn(f->gang)) {
            uint32_t seat = (uint32_t)mq_prng_below(&prng, members);
            mq_forked_gang_stop(f->gang, seat);
            mq_clock_sleep_ms((int64_t)mq_prng_below(&prng, 3));
            mq_forked_gang_go_on(f->gang, seat);
        }
        finish(f, &p);
        same(&p, &q);
    }
}

/* --- an independent trainer: double precision, plain loops, one sum over the batch --- */

enum { LAYERS = 3, WIDEST = 24, NAIVE_BATCH = 64 };
static const size_t sizes[LAYERS + 1] = {20, 24, 16, 4};

typedef struct naive_net {
    double w[LAYERS][WIDEST][WIDEST], b[LAYERS][WIDEST]; /* w[layer][out][in] */
    double gw[LAYERS][WIDEST][WIDEST], gb[LAYERS][WIDEST];
    double mw[LAYERS][WIDEST][WIDEST], mb[LAYERS][WIDEST];
} naive_net;

/* Initializers are weight, bias, weight, bias, ...; weights are stored [out, in]. Their bytes may
 * have any alignment. */
static void naive_load(naive_net *net, const mq_model *model)
{
    assert_int_equal(model->graph.initializer_count, 2 * LAYERS);
    for (size_t l = 0; l < LAYERS; l++) {
        float w[WIDEST * WIDEST], b[WIDEST];
        size_t out = sizes[l + 1], in = sizes[l];
        memcpy(w, model->graph.initializers[2 * l].tensor.data, out * in * sizeof *w);
        memcpy(b, model->graph.initializers[2 * l + 1].tensor.data, out * sizeof *b);
        for (size_t o = 0; o < out; o++) {
            net->b[l][o] = (double)b[o];
            for (size_t i = 0; i < in; i++) {
                net->w[l][o][i] = (double)w[o * in + i];
            }
        }
    }
}

static void naive_row(naive_net *net, const uint8_t *x, uint8_t label)
{
    double a[LAYERS + 1][WIDEST], d[WIDEST], below[WIDEST], sum = 0;
    for (size_t i = 0; i < sizes[0]; i++) {
        a[0][i] = x[i] / 255.0;
    }
    for (size_t l = 0; l < LAYERS; l++) {
        for (size_t o = 0; o < sizes[l + 1]; o++) {
            double z = net->b[l][o];
            for (size_t i = 0; i < sizes[l]; i++) {
                z += net->w[l][o][i] * a[l][i];
            }
            a[l + 1][o] = l + 1 < LAYERS && z < 0 ? 0 : z;
        }
    }
    for (size_t o = 0; o < FX_CLASSES; o++) {
        sum += exp(a[LAYERS][o]);
    }
    for (size_t o = 0; o < FX_CLASSES; o++) {
        d[o] = (exp(a[LAYERS][o]) / sum - (o == label)) / NAIVE_BATCH;
    }
    for (size_t l = LAYERS; l-- > 0;) {
        memset(below, 0, sizeof below);
        for (size_t o = 0; o < sizes[l + 1]; o++) {
            net->gb[l][o] += d[o];
            for (size_t i = 0; i < sizes[l]; i++) {
                net->gw[l][o][i] += d[o] * a[l][i];
                below[i] += d[o] * net->w[l][o][i];
            }
        }
        for (size_t i = 0; i < sizes[l]; i++) {
            d[i] = l > 0 && a[l][i] <= 0 ? 0 : below[i];
        }
    }
}

static void naive_update(naive_net *net)
{
    for (size_t l = 0; l < LAYERS; l++) {
        for (size_t o = 0; o < WIDEST; o++) {
            net->mb[l][o] = 0.9 * net->mb[l][o] + net->gb[l][o];
            net->b[l][o] -= 0.05 * net->mb[l][o];
            for (size_t i = 0; i < WIDEST; i++) {
                net->mw[l][o][i] = 0.9 * net->mw[l][o][i] + net->gw[l][o][i];
                net->w[l][o][i] -= 0.05 * net->mw[l][o][i];
            }
        }
    }
    memset(net->gw, 0, sizeof net->gw);
    memset(net->gb, 0, sizeof net->gb);
}

static void naive_train(naive_net *net, uint32_t epochs)
{
    uint8_t *x = malloc((size_t)FX_ROWS * FX_FEATURES), *y = malloc(FX_ROWS);
    assert_non_null(x);
    assert_non_null(y);
    fx_rows(FX_ROWS, x, y);
    for (uint32_t epoch = 0; epoch < epochs; epoch++) {
        mq_permutation p;
        mq_permutation_init(&p, 1, epoch, FX_ROWS);
        for (uint32_t at = 0; at < FX_ROWS; at++) {
            uint64_t row = mq_permutation_at(&p, at);
            naive_row(net, x + row * FX_FEATURES, y[row]);
            if (at % NAIVE_BATCH == NAIVE_BATCH - 1) {
                naive_update(net);
            }
        }
    }
    free(x);
    free(y);
}

static void trained_weights_are_those_of_plain_sgd(void **state)
{
    fixture *f = *state;
    proof p;
    char blob[MQ_SHA256_HEX], path[160];
    mq_model *first, *trained;
    mq_map_file file;
    naive_net *net = calloc(1, sizeof *net), *got = calloc(1, sizeof *net);
    assert_non_null(net);
    assert_non_null(got);
    assert_int_equal(mq_arch_build(&first, "mlp:20-24-16-4", 1, NULL), MQ_OK);
    naive_load(net, first);
    mq_model_free(first);
    naive_train(net, 3);
    trial t = {2, 3, "gang", "auto", false, NULL, NULL};
    start(f, &t);
    finish(f, &p);
    fx_field(outcome.result, "blob", blob, sizeof blob);
    (void)snprintf(path, sizeof path, "%s/%s", f->dir, blob);
    assert_int_equal(mq_map_file_open(&file, path, 1 << 24, NULL), MQ_OK);
    assert_int_equal(mq_model_load(&trained, file.bytes, 0, NULL), MQ_OK);
    naive_load(got, trained);
    for (size_t l = 0; l < LAYERS; l++) {
        for (size_t o = 0; o < sizes[l + 1]; o++) {
            assert_true(fabs(net->b[l][o] - got->b[l][o]) < 1e-4);
            for (size_t i = 0; i < sizes[l]; i++) {
                assert_true(fabs(net->w[l][o][i] - got->w[l][o][i]) < 1e-4);
            }
        }
    }
    mq_model_free(trained);
    mq_map_file_release(&file);
    free(net);
    free(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_members_and_any_transport_gives_one_hash),
        cmocka_unit_test(every_recipe_gives_one_hash_however_it_is_shared),
        cmocka_unit_test(nets_of_all_kinds_give_one_hash_however_they_are_shared),
        cmocka_unit_test(training_learns),
        cmocka_unit_test(trained_weights_are_those_of_plain_sgd),
        cmocka_unit_test(killed_members_change_nothing_by_shared_memory),
        cmocka_unit_test(killed_members_change_nothing_by_messages),
        cmocka_unit_test(members_may_join_in_the_middle),
        cmocka_unit_test(a_run_whose_members_all_died_goes_on_from_its_checkpoint),
        cmocka_unit_test(a_pipeline_of_any_depth_gives_the_hash_of_a_gang),
        cmocka_unit_test(killed_stages_change_nothing),
        cmocka_unit_test(members_that_pause_change_nothing),
        cmocka_unit_test(a_hung_member_is_reported_and_replaced),
    };
    return cmocka_run_group_tests(tests, fx_setup, fx_teardown);
}
