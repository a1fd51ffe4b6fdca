/* The pure parts of training: counters, permutation, tree over shards, manifest, state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/prng.h"
#include "worker/train/fingerprint.h"
#include "worker/train/init.h"
#include "worker/train/manifest.h"
#include "worker/train/philox.h"
#include "worker/train/state.h"
#include "worker/train/tree.h"

/* --- philox --- */

static void philox_gives_the_published_vectors(void **unused)
{
    (void)unused;
    /* kat_vectors of the Random123 distribution, philox4x32 with 10 rounds. */
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0}, {0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < 3; i++) {
        uint64_t key = (uint64_t)known[i].key[1] << 32 | known[i].key[0];
        mq_philox_block b = mq_philox(key, known[i].counter);
        assert_memory_equal(b.word, known[i].out, sizeof b.word);
    }
}

static void permutation_is_a_bijection_that_depends_on_seed_and_epoch(void **unused)
{
    (void)unused;
    static const uint64_t sizes[] = {1, 2, 3, 5, 16, 17, 255, 1000, 4096, 60000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        mq_permutation p, other;
        uint8_t *seen = calloc(sizes[i], 1);
        uint64_t same_epoch = 0, same_place = 0;
        assert_non_null(seen);
        mq_permutation_init(&p, 7, 3, sizes[i]);
        mq_permutation_init(&other, 7, 4, sizes[i]);
        for (uint64_t at = 0; at < sizes[i]; at++) {
            uint64_t row = mq_permutation_at(&p, at);
            assert_true(row < sizes[i]);
            assert_int_equal(seen[row], 0);
            seen[row] = 1;
            same_place += row == at;
            same_epoch += row == mq_permutation_at(&other, at);
        }
        if (sizes[i] >= 1000) {
            assert_true(same_place < 12);
            assert_true(same_epoch < 12);
        }
        free(seen);
    }
}

static void first_weights_follow_from_seed_and_layer(void **unused)
{
    (void)unused;
    float a[1003], b[1003], c[1003];
    double sum = 0, squares = 0;
    mq_init_he(5, 1, 600, a, 1003);
    mq_init_he(5, 1, 600, b, 1003);
    mq_init_he(5, 2, 600, c, 1003);
    assert_memory_equal(a, b, sizeof a);
    assert_true(memcmp(a, c, sizeof a) != 0);
    for (size_t i = 0; i < 1003; i++) {
        assert_true(fabsf(a[i]) < 0.1F);
    }
    mq_init_normal(5, 1, 2, a, 1003);
    for (size_t i = 0; i < 1003; i++) {
        sum += (double)a[i];
        squares += (double)a[i] * (double)a[i];
    }
    assert_true(fabs(sum / 1003) < 0.3);
    assert_true(fabs(squares / 1003 - 4) < 0.6);
}

static void fingerprint_is_the_same_each_time(void **unused)
{
    (void)unused;
    char a[MQ_SHA256_HEX], b[MQ_SHA256_HEX];
    mq_fingerprint(a);
    mq_fingerprint(b);
    assert_string_equal(a, b);
    assert_true(mq_sha256_is_hex(mq_str(a)));
}

/* --- tree --- */

static float naive(float (*leaves)[16], uint32_t first, uint32_t count, size_t at)
{
    if (count == 1) {
        return leaves[first][at];
    }
    return naive(leaves, first, count / 2, at) + naive(leaves, first + count / 2, count / 2, at);
}

enum { WIDTH = 16 };

/* Members fold their shards with groups of some size; the roots of all are added up. */
static void sum_with(uint32_t shards, uint32_t workers, size_t bytes_max, float (*leaves)[16],
                     float *out)
{
    mq_arena arena;
    mq_piece piece = {0, WIDTH};
    mq_tree_view all = {0};
    mq_tree_scratch *scratch;
    mq_arena_init(&arena, (size_t)64 << 20);
    scratch = mq_arena_new(&arena, mq_tree_scratch, 1);
    for (uint32_t r = 0; r < workers; r++) {
        mq_fold fold;
        mq_tree_view own;
        uint32_t first, end;
        float *roots[MQ_TREE_ROOTS_MAX];
        mq_tree_range(shards, r, workers, &first, &end);
        for (uint32_t i = 0; i < MQ_TREE_ROOTS_MAX; i++) {
            roots[i] = mq_arena_new(&arena, float, WIDTH);
        }
        assert_int_equal(
            mq_fold_init(&fold, &arena, WIDTH, end - first, bytes_max, &piece, 1, NULL), MQ_OK);
        for (uint32_t s = first; s < end; s++) {
            memcpy(mq_fold_next(&fold), leaves[s], WIDTH * sizeof(float));
            mq_fold_push(&fold, s);
        }
        mq_tree_fold(&fold.view, &piece, 1, roots, &own, scratch);
        assert_true(own.count <= MQ_TREE_ROOTS_MAX);
        memcpy(all.nodes + all.count, own.nodes, own.count * sizeof own.nodes[0]);
        all.count += own.count;
    }
    mq_tree_sum(all.nodes, all.count, &piece, 1, out, scratch);
    mq_arena_release(&arena);
}

static void tree_sum_is_the_naive_one_for_any_number_of_workers(void **unused)
{
    (void)unused;
    static const uint32_t workers[] = {1, 2, 3, 5, 7, 8, 13, 64};
    static float leaves[MQ_TREE_SHARDS_MAX][16];
    mq_prng prng = {11};
    for (uint32_t shards = 1; shards <= 64; shards *= 2) {
        for (uint32_t s = 0; s < shards; s++) {
            for (size_t i = 0; i < WIDTH; i++) {
                leaves[s][i] = (float)((double)mq_prng_below(&prng, 1 << 24) / 1e5 - 80);
            }
        }
        for (size_t w = 0; w < 8; w++) {
            for (size_t bytes = 1; bytes < 1 << 16; bytes *= 8) {
                float out[WIDTH];
                sum_with(shards, workers[w], bytes, leaves, out);
                for (size_t i = 0; i < WIDTH; i++) {
                    float expected = naive(leaves, 0, shards, i);
                    assert_memory_equal(&out[i], &expected, sizeof expected);
                }
            }
        }
    }
}

/* --- manifest --- */

static mq_code parse(const char *body, mq_manifest *m, mq_error *err)
{
    return mq_manifest_parse(m, mq_str(body), err);
}

static void refuses(const char *body, const char *word)
{
    mq_manifest m;
    mq_error err = {MQ_OK, ""};
    assert_int_not_equal(parse(body, &m, &err), MQ_OK);
    if (strstr(err.text, word) == NULL) {
        fail_msg("\"%s\" does not name %s", err.text, word);
    }
}

static void manifest_errors_name_the_field(void **unused)
{
    (void)unused;
    refuses("", "body");
    refuses("{", "body");
    refuses("[1]", "object");
    refuses("{\"model\":\"m\",\"model\":\"n\",\"data\":\"d\"}", "duplicate");
    refuses("{\"data\":\"d@1\"}", "model: missing");
    refuses("{\"model\":\"m\"}", "data: missing");
    refuses("{\"model\":\"m@2\",\"data\":\"d\"}", "model");
    refuses("{\"model\":\"../m\",\"data\":\"d\"}", "model");
    refuses("{\"model\":5,\"data\":\"d\"}", "model");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"speed\":9}", "speed");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"shards\":3}", "power of two");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"shards\":128}", "shards");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"batch\":100}", "shards; take a multiple");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"batch\":0}", "batch");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"batch\":2.5}", "batch");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"micro_batches\":4}", "micro_batches");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"lr\":0}", "lr");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"lr\":\"0.1\"}", "lr");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"lr\":1e300}", "lr");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"momentum\":1}", "momentum");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"weight_decay\":-1}", "weight_decay");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"epochs\":0}", "epochs");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"seed\":-1}", "seed");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"optimizer\":\"adamax\"}", "optimizer");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"loss\":\"vibes\"}", "loss");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"schedule\":1}", "schedule");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"mode\":\"pipeline:0\"}", "mode");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"mode\":\"pipeline:17\"}", "mode");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"mode\":\"pipeline:2x\"}", "mode");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"mode\":\"rounds\"}", "mode");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"init\":{}}", "init");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"init\":{\"blob\":\"12\"}}", "init.blob");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"init\":{\"file\":\"12\"}}", "init.file");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"run\":{\"fast\":true}}", "run.fast");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"run\":{\"commit_ms\":1}}", "commit_ms");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"run\":{\"reuse\":1}}", "run.reuse");
    refuses("{\"model\":\"m\",\"data\":\"d\",\"run\":{\"transport\":\"rdma\"}}", "transport");
}

static void hash_of(const char *body, char out[MQ_SHA256_HEX])
{
    mq_manifest m;
    mq_error err = {MQ_OK, ""};
    char blob[MQ_SHA256_HEX];
    mq_sha256_hex_of(mq_str("first weights"), blob);
    assert_int_equal(parse(body, &m, &err), MQ_OK);
    assert_int_equal(mq_manifest_seal(&m, "d@1", "", blob, &err), MQ_OK);
    memcpy(out, m.hash, MQ_SHA256_HEX);
}

static void manifest_hash_covers_what_decides_the_weights_and_nothing_else(void **unused)
{
    (void)unused;
    char plain[MQ_SHA256_HEX], other[MQ_SHA256_HEX];
    hash_of("{\"model\":\"m\",\"data\":\"d\"}", plain);
    static const char *const same[] = {
        "{\"data\":\"d@1\",\"model\":\"n\",\"batch\":256}",
        "{\"model\":\"m\",\"data\":\"d\",\"mode\":\"pipeline:2\",\"micro_batches\":8}",
        "{\"model\":\"m\",\"data\":\"d\",\"run\":{\"commit_ms\":50,\"transport\":\"shm\"}}",
        "{ \"lr\" : 0.1, \"model\":\"m\",\"data\":\"d\", \"epochs\": 5 }",
    };
    static const char *const different[] = {
        "{\"model\":\"m\",\"data\":\"d\",\"epochs\":6}",
        "{\"model\":\"m\",\"data\":\"d\",\"batch\":512}",
        "{\"model\":\"m\",\"data\":\"d\",\"shards\":4}",
        "{\"model\":\"m\",\"data\":\"d\",\"lr\":0.051}",
        "{\"model\":\"m\",\"data\":\"d\",\"momentum\":0.5}",
        "{\"model\":\"m\",\"data\":\"d\",\"weight_decay\":0.1}",
        "{\"model\":\"m\",\"data\":\"d\",\"seed\":2}",
        "{\"model\":\"m\",\"data\":\"d\",\"schedule\":\"constant\"}",
        "{\"model\":\"m\",\"data\":\"d\",\"max_steps\":7}",
        "{\"model\":\"m\",\"data\":\"d\",\"nesterov\":true}",
        "{\"model\":\"m\",\"data\":\"d\",\"optimizer\":\"adam\",\"lr\":0.1}",
        "{\"model\":\"m\",\"data\":\"d\",\"label_smoothing\":0.1}",
        "{\"model\":\"m\",\"data\":\"d\",\"class_weights\":[1,2]}",
        "{\"model\":\"m\",\"data\":\"d\",\"loss\":\"hinge\"}",
        "{\"model\":\"m\",\"data\":\"d\",\"warmup_steps\":3}",
        "{\"model\":\"m\",\"data\":\"d\",\"schedule\":\"step\"}",
        "{\"model\":\"m\",\"data\":\"d\",\"clip_norm\":1}",
        "{\"model\":\"m\",\"data\":\"d\",\"clip_value\":1}",
    };
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) {
        hash_of(same[i], other);
        assert_string_equal(plain, other);
    }
    for (size_t i = 0; i < sizeof different / sizeof different[0]; i++) {
        hash_of(different[i], other);
        assert_string_not_equal(plain, other);
    }
}

static void a_dataset_smaller_than_a_batch_is_refused_naming_both(void **unused)
{
    (void)unused;
    mq_manifest m;
    mq_plan plan;
    mq_error err = {MQ_OK, ""};
    assert_int_equal(parse("{\"model\":\"m\",\"data\":\"tiny@3\"}", &m, &err), MQ_OK);
    assert_int_equal(mq_plan_make(&plan, &m, 255, &err), MQ_E_ARG);
    assert_non_null(strstr(err.text, "256"));
    assert_non_null(strstr(err.text, "255"));
    assert_non_null(strstr(err.text, "tiny@3"));
    assert_int_equal(mq_plan_make(&plan, &m, 600, &err), MQ_OK);
    assert_int_equal(plan.steps, 10);
}

static void cosine_goes_from_lr_to_zero(void **unused)
{
    (void)unused;
    mq_manifest m;
    mq_plan plan;
    assert_int_equal(parse("{\"model\":\"m\",\"data\":\"d\",\"schedule\":\"cosine\",\"lr\":0.2,"
                           "\"epochs\":100}",
                           &m, NULL),
                     MQ_OK);
    assert_int_equal(mq_plan_make(&plan, &m, 256, NULL), MQ_OK);
    for (uint64_t step = 0; step <= 100; step++) {
        double expected = 0.1 * (1 + cos(M_PI * (double)step / 100));
        assert_true(fabs((double)mq_plan_rate(&plan, &m, step) - expected) < 1e-7);
    }
}

/* --- state --- */

static void make_state(mq_state *state, mq_arena *arena, mq_manifest *m, mq_plan *plan)
{
    char blob[MQ_SHA256_HEX];
    mq_sha256_hex_of(mq_str("first weights"), blob);
    mq_arena_init(arena, 1 << 20);
    assert_int_equal(parse("{\"model\":\"m\",\"data\":\"d\"}", m, NULL), MQ_OK);
    assert_int_equal(mq_manifest_seal(m, "d@1", "", blob, NULL), MQ_OK);
    assert_int_equal(mq_plan_make(plan, m, 1000, NULL), MQ_OK);
    static const mq_state_param params[] = {
        {{0, 400}, false}, {{400, 100}, false}, {{500, 500}, false}};
    assert_int_equal(mq_state_init(state, arena, MQ_OPTIMIZER_SGD, false, params, 3, NULL), MQ_OK);
    mq_init_uniform(1, 1, 1, state->weights, 1000);
    mq_state_begin(state, m);
}

static void update_is_sgd_with_momentum_and_decay(void **unused)
{
    (void)unused;
    mq_state state;
    mq_arena arena;
    mq_manifest m;
    mq_plan plan;
    float g[1000], w[1000], v[1000] = {0};
    make_state(&state, &arena, &m, &plan);
    m.recipe.weight_decay = 0.01;
    m.recipe.schedule.schedule = MQ_SCHEDULE_CONSTANT;
    mq_init_uniform(2, 2, 1, g, 1000);
    memcpy(w, state.weights, sizeof w);
    mq_tree_scratch *scratch = mq_arena_new(&arena, mq_tree_scratch, 1);
    mq_tree_view view = {1, {{3, 0, g}}};
    mq_piece pieces[2] = {{0, 400}, {500, 500}};
    for (int step = 0; step < 3; step++) {
        mq_state_update(&state, &m.recipe, &plan, &view, 1, pieces, 2, scratch);
        for (size_t i = 0; i < 1000; i++) {
            if (i >= 400 && i < 500) {
                continue;
            }
            float d = (float)m.recipe.weight_decay * w[i];
            v[i] = (float)m.recipe.momentum * v[i] + (g[i] + d);
            w[i] = w[i] - (float)m.recipe.lr * v[i];
        }
        assert_memory_equal(w, state.weights, sizeof w);
        assert_memory_equal(v, state.vectors[1], sizeof v);
    }
    mq_arena_release(&arena);
}

static void checkpoint_brings_back_every_bit_and_refuses_strangers(void **unused)
{
    (void)unused;
    mq_state state, copy;
    mq_arena arena, other;
    mq_manifest m;
    mq_plan plan;
    mq_buf bytes;
    mq_error err = {MQ_OK, ""};
    uint8_t a[MQ_SHA256_BYTES], b[MQ_SHA256_BYTES];
    make_state(&state, &arena, &m, &plan);
    mq_init_uniform(9, 9, 1, state.vectors[1], 1000);
    mq_sums sums = {123.5, 99, 256};
    for (int i = 0; i < 7; i++) {
        assert_int_equal(mq_state_count(&state, &plan, &sums, &err), MQ_OK);
        if (mq_state_is_link(&state, &plan)) {
            mq_state_link(&state);
        }
    }
    mq_buf_init(&bytes, 1 << 20);
    assert_int_equal(mq_state_save(&state, &m, &bytes, &err), MQ_OK);
    make_state(&copy, &other, &m, &plan);
    assert_int_equal(mq_state_load(&copy, &m, mq_buf_span(&bytes), &err), MQ_OK);
    mq_state_digest(&state, a);
    mq_state_digest(&copy, b);
    assert_memory_equal(a, b, sizeof a);
    assert_memory_equal(&state.record, &copy.record, sizeof state.record);
    m.family[0] = m.family[0] == '0' ? '1' : '0';
    assert_int_equal(mq_state_load(&copy, &m, mq_buf_span(&bytes), &err), MQ_E_CONFLICT);
    assert_non_null(strstr(err.text, "manifest"));
    m.family[0] = 'a';
    assert_int_not_equal(mq_state_load(&copy, &m, mq_span_of(bytes.data, bytes.len / 2), &err),
                         MQ_OK);
    mq_buf_release(&bytes);
    mq_arena_release(&arena);
    mq_arena_release(&other);
}

static void a_loss_that_is_not_finite_names_the_step(void **unused)
{
    (void)unused;
    mq_state state;
    mq_arena arena;
    mq_manifest m;
    mq_plan plan;
    mq_error err = {MQ_OK, ""};
    make_state(&state, &arena, &m, &plan);
    mq_sums good = {1, 1, 256}, bad = {(double)NAN, 1, 256};
    assert_int_equal(mq_state_count(&state, &plan, &good, &err), MQ_OK);
    assert_int_equal(mq_state_count(&state, &plan, &bad, &err), MQ_E_NUMERIC);
    assert_non_null(strstr(err.text, "step 2"));
    mq_arena_release(&arena);
}

static void curve_never_outgrows_its_limit(void **unused)
{
    (void)unused;
    static const uint32_t epochs[] = {1, 5, 13, 40, 41, 999};
    for (size_t i = 0; i < 6; i++) {
        mq_state state;
        mq_arena arena;
        mq_manifest m;
        mq_plan plan;
        make_state(&state, &arena, &m, &plan);
        m.epochs = epochs[i];
        assert_int_equal(mq_plan_make(&plan, &m, 1000, NULL), MQ_OK);
        mq_sums sums = {256, 128, 256};
        while (state.record.step < plan.steps) {
            assert_int_equal(mq_state_count(&state, &plan, &sums, NULL), MQ_OK);
        }
        assert_true(state.record.curve_count >= 1);
        assert_true(state.record.curve_count <= MQ_CURVE_MAX);
        assert_int_equal(state.record.curve[state.record.curve_count - 1].step, plan.steps);
        assert_true(state.record.epoch_before.rows == 768);
        mq_arena_release(&arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_vectors),
        cmocka_unit_test(permutation_is_a_bijection_that_depends_on_seed_and_epoch),
        cmocka_unit_test(first_weights_follow_from_seed_and_layer),
        cmocka_unit_test(fingerprint_is_the_same_each_time),
        cmocka_unit_test(tree_sum_is_the_naive_one_for_any_number_of_workers),
        cmocka_unit_test(manifest_errors_name_the_field),
        cmocka_unit_test(manifest_hash_covers_what_decides_the_weights_and_nothing_else),
        cmocka_unit_test(a_dataset_smaller_than_a_batch_is_refused_naming_both),
        cmocka_unit_test(cosine_goes_from_lr_to_zero),
        cmocka_unit_test(update_is_sgd_with_momentum_and_decay),
        cmocka_unit_test(checkpoint_brings_back_every_bit_and_refuses_strangers),
        cmocka_unit_test(a_loss_that_is_not_finite_names_the_step),
        cmocka_unit_test(curve_never_outgrows_its_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
