/* Runs vectors of the ONNX backend suite and counts: one line per operator, every miss with its
 * reason, at the end "N passed, N failed". */
#include <dirent.h>
#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/conformance/suite.h"

enum { VECTORS_MAX = 20000, DEPTH_MAX = 5, LIMIT_S = 120, USAGE = 2 };

typedef struct vector {
    char *path;
    const char *name; /* last part of path */
    suite_result result;
} vector;

typedef struct names {
    char **at; /* lines of a list; the first word counts */
    size_t count;
} names;

typedef struct run {
    vector *vectors;
    size_t count;
    names only, known;
    bool is_json;
} run;

static void stop(const char *what, const char *name)
{
    fprintf(stderr, "conformance: %s: %s\n", what, name);
    exit(USAGE);
}

static names read_names(const char *path)
{
    names list = {.at = calloc(VECTORS_MAX, sizeof *list.at)};
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t room = 0;
    if (file == NULL || list.at == NULL) {
        stop("cannot read", path);
    }
    while (list.count < VECTORS_MAX && getline(&line, &room, file) > 0) {
        size_t len = strcspn(line, " \t\r\n");
        if (len > 0 && line[0] != '#') {
            list.at[list.count++] = strndup(line, len);
        }
    }
    free(line);
    fclose(file);
    return list;
}

/* Is the vector in the list, as NAME or as FOLDER/NAME? */
static bool is_named(const names *list, const vector *v)
{
    for (size_t i = 0; i < list->count; i++) {
        const char *slash = strrchr(list->at[i], '/');
        if (strcmp(slash == NULL ? list->at[i] : slash + 1, v->name) == 0) {
            return true;
        }
    }
    return false;
}

static void find_vectors(run *r, const char *path, int depth)
{
    char file[SUITE_PATH];
    snprintf(file, sizeof file, "%.900s/model.onnx", path);
    if (access(file, R_OK) == 0) {
        char *copy = strdup(path);
        if (copy == NULL || r->count == VECTORS_MAX) {
            stop("too many vectors in", path);
        }
        vector v = {.path = copy, .name = strrchr(copy, '/')};
        v.name = v.name == NULL ? copy : v.name + 1;
        if (r->only.at == NULL || is_named(&r->only, &v)) {
            r->vectors[r->count++] = v;
        } else {
            free(copy);
        }
        return;
    }
    DIR *dir = depth > 0 ? opendir(path) : NULL;
    for (struct dirent *e = dir == NULL ? NULL : readdir(dir); e != NULL; e = readdir(dir)) {
        struct stat info;
        snprintf(file, sizeof file, "%.700s/%.200s", path, e->d_name);
        if (e->d_name[0] != '.' && stat(file, &info) == 0 && S_ISDIR(info.st_mode)) {
            find_vectors(r, file, depth - 1);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const vector *)a)->name, ((const vector *)b)->name);
}

static int by_operator(const void *a, const void *b)
{
    const vector *x = a, *y = b;
    int order = strcmp(x->result.op, y->result.op);
    return order != 0 ? order : strcmp(x->name, y->name);
}

/* A function written out as nodes (NAME_expanded...) counts for the operator of NAME. */
static void name_expanded(run *r)
{
    for (size_t i = 0; i < r->count; i++) {
        vector *v = &r->vectors[i];
        const char *cut = strstr(v->name, "_expanded");
        for (size_t k = 0; cut != NULL && k < r->count; k++) {
            const vector *of = &r->vectors[k];
            size_t len = (size_t)(cut - v->name);
            if (strlen(of->name) == len && strncmp(of->name, v->name, len) == 0) {
                memcpy(v->result.op, of->result.op, sizeof v->result.op);
            }
        }
    }
}

static void print_miss(const run *r, const vector *v)
{
    static const char *const words[] = {"passed", "refused", "failed"};
    bool is_known = is_named(&r->known, v);
    if (!r->is_json) {
        printf("  %s%s: %s: %s\n", is_known ? "known miss " : "", words[v->result.verdict], v->name,
               v->result.reason);
        return;
    }
    json_t *line = json_pack("{s:s, s:s, s:s, s:s, s:b}", "vector", v->name, "operator",
                             v->result.op, "verdict", words[v->result.verdict], "reason",
                             v->result.reason, "known", is_known);
    if (line != NULL) {
        json_dumpf(line, stdout, JSON_COMPACT);
        putchar('\n');
    }
    json_decref(line);
}

/* Prints all of it; returns how many misses nobody knew of. */
static size_t print(run *r)
{
    size_t totals[3] = {0}, surprises = 0;
    qsort(r->vectors, r->count, sizeof *r->vectors, by_operator);
    for (size_t from = 0, to; from < r->count; from = to) {
        size_t counts[3] = {0};
        const char *op = r->vectors[from].result.op;
        for (to = from; to < r->count && strcmp(r->vectors[to].result.op, op) == 0; to++) {
            counts[r->vectors[to].result.verdict]++;
            totals[r->vectors[to].result.verdict]++;
        }
        if (!r->is_json) {
            printf("%-28s %4zu passed %3zu failed %3zu refused\n", op, counts[SUITE_PASSED],
                   counts[SUITE_FAILED], counts[SUITE_REFUSED]);
        }
    }
    for (size_t i = 0; i < r->count; i++) {
        const vector *v = &r->vectors[i];
        if (v->result.verdict != SUITE_PASSED) {
            print_miss(r, v);
            surprises += !is_named(&r->known, v);
        } else if (is_named(&r->known, v)) {
            fprintf(stderr, "conformance: %s passes: no known miss any more\n", v->name);
        }
    }
    printf("%zu passed, %zu failed\n", totals[SUITE_PASSED],
           totals[SUITE_FAILED] + totals[SUITE_REFUSED]);
    return surprises;
}

static void usage(void)
{
    puts("usage: conformance [--list FILE] [--known FILE] [--json] DIR...\n"
         "Runs every folder below DIR that holds a model.onnx and test_data_set_N/.\n"
         "  --list FILE   only the vectors named in it, one a line\n"
         "  --known FILE  misses that are known: they are listed but do not count for the status\n"
         "  --json        one object a line for every miss\n"
         "Ends with \"N passed, N failed\"; exit status 0 when nothing failed, 1 when not.");
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"list", required_argument, NULL, 'l'},
                                            {"known", required_argument, NULL, 'k'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    static run r; /* with all that it points to, it lives as long as the program */
    r.vectors = calloc(VECTORS_MAX, sizeof *r.vectors);
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'l') {
            r.only = read_names(optarg);
        } else if (c == 'k') {
            r.known = read_names(optarg);
        } else if (c == 'j') {
            r.is_json = true;
        } else {
            usage();
            return c == 'h' ? 0 : USAGE;
        }
    }
    for (int i = optind; i < argc && r.vectors != NULL; i++) {
        find_vectors(&r, argv[i], DEPTH_MAX);
    }
    if (r.count == 0) {
        stop("no vectors", optind < argc ? argv[optind] : "name a folder");
    }
    qsort(r.vectors, r.count, sizeof *r.vectors, by_name);
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    for (size_t i = 0; i < r.count; i++) {
        suite_run(r.vectors[i].path, LIMIT_S, &r.vectors[i].result);
    }
    name_expanded(&r);
    return print(&r) == 0 ? 0 : 1;
}
