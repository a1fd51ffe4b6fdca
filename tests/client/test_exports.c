/* What libmaasq shows to the world: exactly the functions of maasq.h, a header that C and C++ take.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NAMES_MAX = 200, NAME_SIZE = 64 };

typedef struct names {
    char list[NAMES_MAX][NAME_SIZE];
    size_t count;
} names;

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void add(names *n, const char *text, size_t len)
{
    assert_true(n->count < NAMES_MAX && len < NAME_SIZE);
    memcpy(n->list[n->count], text, len);
    n->list[n->count++][len] = '\0';
}

/* Folder of the build: this program is <build>/tests/client/test_exports. */
static void build_dir(char out[512])
{
    ssize_t n = readlink("/proc/self/exe", out, 511);
    assert_true(n > 0);
    out[n] = '\0';
    for (int up = 0; up < 3; up++) {
        char *slash = strrchr(out, '/');
        assert_non_null(slash);
        *slash = '\0';
    }
}

static void exported(names *out)
{
    char dir[512];
    char command[600];
    build_dir(dir);
    (void)snprintf(command, sizeof command, "nm -D --defined-only '%s/libmaasq.so'", dir);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    char line[512];
    while (fgets(line, sizeof line, pipe) != NULL) {
        char type = 0;
        char name[256];
        if (sscanf(line, "%*x %c %255s", &type, name) == 2 && type != 'A') {
            add(out, name, strcspn(name, "@\n"));
        }
    }
    assert_int_equal(pclose(pipe), 0);
    qsort(out->list, out->count, NAME_SIZE, by_text);
}

/* The name in front of the first '(' behind each MAASQ_API. */
static void declared(names *out)
{
    FILE *file = fopen("client/include/maasq.h", "r");
    assert_non_null(file); /* tests run in the root of the repository */
    static char text[1 << 16];
    size_t len = fread(text, 1, sizeof text - 1, file);
    (void)fclose(file);
    assert_true(len < sizeof text - 1);
    text[len] = '\0';
    for (char *at = strstr(text, "\nMAASQ_API "); at != NULL; at = strstr(at + 1, "\nMAASQ_API ")) {
        char *end = strchr(at, '(');
        assert_non_null(end);
        char *start = end;
        while (isalnum((unsigned char)start[-1]) || start[-1] == '_') {
            start--;
        }
        add(out, start, (size_t)(end - start));
    }
    qsort(out->list, out->count, NAME_SIZE, by_text);
}

static void library_exports_exactly_the_functions_of_the_header(void **state)
{
    (void)state;
    static names library, header;
    exported(&library);
    declared(&header);
    assert_true(header.count > 25);
    for (size_t i = 0; i < header.count && i < library.count; i++) {
        assert_string_equal(header.list[i], library.list[i]);
    }
    assert_int_equal(header.count, library.count);
}

static void compiles(const char *compiler, const char *flags)
{
    char command[512];
    (void)snprintf(command, sizeof command,
                   "printf '#include \"client/include/maasq.h\"\\nint main() { return "
                   "MAASQ_OK; }\\n' | %s -I. -Wall -Wextra -Wpedantic -Werror %s -fsyntax-only -",
                   compiler, flags);
    assert_int_equal(system(command), 0);
}

static void header_alone_is_c_and_cpp(void **state)
{
    (void)state;
    compiles("gcc", "-x c -std=c99 -Wno-strict-prototypes");
    compiles("gcc", "-x c -std=c11");
    bool has_gxx = system("command -v g++ >/dev/null") == 0;
    bool has_clangxx = system("command -v clang++ >/dev/null") == 0;
    if (!has_gxx && !has_clangxx) {
        print_message("no C++ compiler, which maasq does not need: left out for C++\n");
        skip();
    }
    compiles(has_gxx ? "g++" : "clang++", "-x c++ -std=c++11");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(library_exports_exactly_the_functions_of_the_header),
        cmocka_unit_test(header_alone_is_c_and_cpp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
