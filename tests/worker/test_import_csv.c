/* CSV: what columns become, the stated rules for missing values and labels, and every error with
 * its line and column. */
#include "tests/worker/rows.h"

static void numbers_and_texts_become_columns_of_floats(void **state)
{
    (void)state;
    json_t *meta = imported("a.csv",
                            S("age,\"city, town\",height\r\n"
                              "30, Rome ,1.5\r\n"
                              "40,\"O\"\"slo\",-2e1\r\n"
                              "50,Rome,.25\r\n\r\n"),
                            "");
    assert_string_equal(json_string_value(at_path(meta, "format")), "csv");
    assert_int_equal(number_at(meta, "rows"), 3);
    assert_string_equal(json_string_value(at_path(meta, "columns.1.name")), "city, town");
    assert_string_equal(json_string_value(at_path(meta, "columns.1.type")), "category");
    assert_string_equal(json_string_value(at_path(meta, "columns.1.categories.0")), "O\"slo");
    assert_string_equal(json_string_value(at_path(meta, "columns.1.categories.1")), "Rome");
    assert_string_equal(json_string_value(at_path(meta, "columns.0.type")), "number");
    assert_true(fabs(number_at(meta, "columns.0.mean") - 40) < 1e-9);
    assert_true(fabs(number_at(meta, "columns.0.std") - 8.16496581) < 1e-6);
    assert_true(json_is_null(at_path(meta, "features.y")));
    json_decref(meta);
    rows_are("d", 3, 3, (float[]){30, 1, 1.5f, 40, 0, -20, 50, 1, .25f}, NULL);
}

static void a_first_line_of_numbers_is_data(void **state)
{
    (void)state;
    json_t *meta = imported("a.csv",
                            S("\xEF\xBB\xBF"
                              "1,2\n3,4"),
                            "");
    assert_string_equal(json_string_value(at_path(meta, "columns.1.name")), "c2");
    json_decref(meta);
    rows_are("d", 2, 2, (float[]){1, 2, 3, 4}, NULL);
}

static void missing_numbers_follow_the_stated_rule(void **state)
{
    (void)state;
    mq_span text = S("a,b,c\n1,,x\nNA,4,\n3,n/a,y\nnull,8,\"NA\"\n");
    json_t *meta = imported("a.csv", text, "");
    assert_int_equal(number_at(meta, "columns.0.missing"), 2);
    assert_int_equal(number_at(meta, "columns.0.fill"), 2);
    assert_int_equal(number_at(meta, "columns.1.fill"), 6);
    assert_string_equal(json_string_value(at_path(meta, "columns.2.categories.0")), "");
    assert_string_equal(json_string_value(at_path(meta, "columns.2.categories.1")), "NA");
    json_decref(meta);
    rows_are("d", 4, 3, (float[]){1, 6, 2, 2, 4, 0, 3, 6, 3, 2, 8, 1}, NULL);
    json_decref(imported("a.csv", text, ",\"missing\":\"zero\""));
    rows_are("d", 4, 3, (float[]){1, 0, 2, 0, 4, 0, 3, 0, 3, 0, 8, 1}, NULL);
    refused("a.csv", text, ",\"missing\":\"refuse\"", MQ_E_FORMAT,
            "a.csv: line 2, column 2 (b): a missing value");
}

static void the_label_column_is_found_by_name_or_index(void **state)
{
    (void)state;
    mq_span text = S("x,kind,z\n1,b,5\n2,a,6\n3,b,7\n");
    static const char *const ways[] = {",\"label_column\":\"kind\"", ",\"label_column\":1",
                                       ",\"label_column\":-2", ",\"label_column\":\"1\""};
    for (size_t i = 0; i < 4; i++) {
        json_t *meta = imported("a.csv", text, ways[i]);
        assert_int_equal(number_at(meta, "features.y.classes"), 2);
        assert_string_equal(json_string_value(at_path(meta, "features.y.categories.1")), "b");
        assert_int_equal(number_at(meta, "stats.class_counts.1"), 2);
        assert_string_equal(json_string_value(at_path(meta, "columns.2.name")), "kind");
        assert_true(json_is_true(at_path(meta, "columns.2.label")));
        json_decref(meta);
        rows_are("d", 3, 2, (float[]){1, 5, 2, 6, 3, 7}, (float[]){1, 0, 1});
    }
    refused("a.csv", text, ",\"label_column\":\"kin\"", MQ_E_ARG,
            "label_column \"kin\" is neither a name in the header nor an index in 0..2");
    refused("a.csv", text, ",\"label_column\":3", MQ_E_ARG, "label_column \"3\" is neither");
    refused("a.csv", text, ",\"label_column\":-4", MQ_E_ARG, "label_column \"-4\" is neither");
    refused("a.csv", S("kind\na\n"), ",\"label_column\":0,\"format\":\"csv\"", MQ_E_FORMAT,
            "only the label column");
}

static void numeric_labels_are_classes_or_values_by_the_stated_rule(void **state)
{
    (void)state;
    json_t *meta = imported("a.csv", S("x,y\n1,0\n2,9\n"), ",\"label_column\":-1");
    assert_int_equal(number_at(meta, "features.y.classes"), 10);
    json_decref(meta);
    meta = imported("a.csv", S("x,y\n1,0\n2,9\n"), ",\"label_column\":-1,\"label_type\":\"value\"");
    assert_string_equal(json_string_value(at_path(meta, "features.y.dtype")), "float32");
    json_decref(meta);
    json_decref(imported("a.csv", S("x,y\n1,0.5\n2,9\n"), ",\"label_column\":-1"));
    rows_are("d", 2, 1, (float[]){1, 2}, (float[]){.5f, 9});
    json_decref(
        imported("a.csv", S("x,y\n1,-1\n2,1\n"), ",\"label_column\":-1,\"categorical\":[\"y\"]"));
    rows_are("d", 2, 1, (float[]){1, 2}, (float[]){0, 1});
    refused("a.csv", S("x,y\n1,-1\n2,1\n"), ",\"label_column\":-1,\"label_type\":\"class\"",
            MQ_E_ARG, "label column \"y\" has numbers from -1 to 1; classes are whole numbers");
    refused("a.csv", S("x,y\n1,a\n"), ",\"label_column\":-1,\"label_type\":\"value\"", MQ_E_ARG,
            "label column \"y\" is text; values are numbers");
    refused("a.csv", S("x,y\n1,a\n2,\n"), ",\"label_column\":-1", MQ_E_FORMAT,
            "line 3, column 2 (y): a missing value in the label column");
}

static void broken_records_are_refused_with_line_and_column(void **state)
{
    (void)state;
    refused(
        "a.csv", S("a,b\n1,2\n3,x\n"), "", MQ_E_FORMAT,
        "a.csv: line 3, column 2 (b): \"x\" is not a finite number; the column is numeric since "
        "line 2");
    refused("a.csv", S("a,b\n1,2\n3,1e99\n"), "", MQ_E_FORMAT, "\"1e99\" is not a finite number");
    refused("a.csv", S("a,b\n1,2\n3,0x10\n"), "", MQ_E_FORMAT, "\"0x10\" is not a finite number");
    refused("a.csv", S("a,b\n1,2\n3\n"), "", MQ_E_FORMAT, "line 3: 1 cells; expected 2");
    refused("a.csv", S("a,b\n1,2\n3,4,5\n"), "", MQ_E_FORMAT, "line 3: 3 cells; expected 2");
    refused("a.csv", S("a,b\n1,2\n\n3,4\n"), "", MQ_E_FORMAT, "line 3: 1 cells; expected 2");
    refused("a.csv", S("a,b\n1,\"2\n3,4\n"), "", MQ_E_FORMAT,
            "line 2, column 2: the quote opened here is not closed before the file's end");
    refused("a.csv", S("a,b\n\"1\"x,2\n"), "", MQ_E_FORMAT,
            "line 2, column 1: expected ',' or the line's end after a closing quote");
    refused("a.csv", S("a,b\n1\"x,2\n"), "", MQ_E_FORMAT,
            "line 2, column 1: a quote inside an unquoted cell");
    refused("a.csv", S("a,b\n1,2\r3,4\n"), "", MQ_E_FORMAT,
            "line 2, column 2: a carriage return without a line feed");
    refused("a.csv", S("a,b\n1,\0\n"), ",\"format\":\"csv\"", MQ_E_FORMAT,
            "line 2, column 2: a control character");
    refused("a.csv", S("a,b\n"), "", MQ_E_FORMAT, "line 2: there is no row of data");
    refused("a.csv", S(""), ",\"format\":\"csv\"", MQ_E_FORMAT, "line 1: the file is empty");
    refused("a.csv", S("a,a\n1,2\n"), "", MQ_E_FORMAT,
            "line 1, column 2: the name \"a\" is that of column 1 too");
    refused("a.csv", S("a,b\n1,\n2,NA\n"), "", MQ_E_FORMAT, "column 2 (b): every value is missing");
    refused("a.csv", S("a,b\n1,2\n"), ",\"categorical\":[\"c\"]", MQ_E_ARG,
            "categorical: there is no column \"c\"");
    refused("a.csv", S("a,b\n1,2\n"), with_labels(S("\0\0\x08\1\0\0\0\1\1")), MQ_E_ARG,
            "labels: a CSV file has its labels in a column");
}

static void a_quoted_cell_may_hold_line_ends_and_lines_still_count(void **state)
{
    (void)state;
    json_decref(imported("a.csv", S("a,b\n\"x\r\ny\",1\nz,2\n"), ""));
    rows_are("d", 2, 2, (float[]){0, 1, 1, 2}, NULL);
    refused("a.csv", S("a,b\n\"x\n\ny\",1\nz,w\n"), "", MQ_E_FORMAT, "line 5, column 2 (b): \"w\"");
}

static void several_files_share_columns_and_categories(void **state)
{
    (void)state;
    char body[1024];
    snprintf(body, sizeof body, TWO_FILES, put(S("a,b\n1,x\n")), put(S("a,b\n2,w\n3,x\n")));
    json_decref(run_body("dataset.import", body));
    rows_are("d", 3, 2, (float[]){1, 1, 2, 0, 3, 1}, NULL);
    snprintf(body, sizeof body, TWO_FILES, put(S("a,b\n1,x\n")), put(S("a,c\n2,w\n")));
    run_refused(&(mq_local_job){.kind = "dataset.import", .body = mq_str(body)}, MQ_E_FORMAT,
                "b: line 1: other columns than in the first file");
}

static void a_wrong_request_is_refused_by_field(void **state)
{
    (void)state;
    static const struct {
        const char *body, *words;
    } cases[] = {
        {"{}", "name: is required"},
        {"{\"name\":\"a b\",\"files\":[]}", "name: \"a b\" is not a name"},
        {"{\"name\":\"d\"}", "files: expected a list of 1..64 files"},
        {"{\"name\":\"d\",\"files\":[{}]}", "files: expected {\"name\":1..256 bytes"},
        {"{\"name\":\"d\",\"files\":[{\"name\":\"x\",\"blob\":\"1\"}]}",
         "expected a blob's hash, 64 lower-case hex digits"},
        {"{\"name\":\"d\",\"files\":[{\"name\":\"x\",\"blobs\":[]}]}", "1..4096 hashes"},
        {"{\"name\":\"d\",\"label_type\":\"x\"}",
         "label_type: \"x\" is none of auto, class, value"},
        {"{\"name\":\"d\",\"categorical\":[1]}", "categorical: expected a list"},
        {"{\"name\":\"d\",\"file\":1}", "field \"file\" is not known; known are name, files"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        run_refused(&(mq_local_job){.kind = "dataset.import", .body = mq_str(cases[i].body)},
                    MQ_E_ARG, cases[i].words);
    }
    run_refused(&(mq_local_job){.kind = "dataset.import",
                                .body = mq_str("{\"name\":\"d\",\"files\":[{\"name\":\"x\","
                                               "\"blob\":\"00000000000000000000000000000000"
                                               "00000000000000000000000000000000\"}]}")},
                MQ_E_NOT_FOUND, "is not in the store");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_and_texts_become_columns_of_floats),
        cmocka_unit_test(a_first_line_of_numbers_is_data),
        cmocka_unit_test(missing_numbers_follow_the_stated_rule),
        cmocka_unit_test(the_label_column_is_found_by_name_or_index),
        cmocka_unit_test(numeric_labels_are_classes_or_values_by_the_stated_rule),
        cmocka_unit_test(broken_records_are_refused_with_line_and_column),
        cmocka_unit_test(a_quoted_cell_may_hold_line_ends_and_lines_still_count),
        cmocka_unit_test(several_files_share_columns_and_categories),
        cmocka_unit_test(a_wrong_request_is_refused_by_field),
    };
    return cmocka_run_group_tests(tests, local_setup, local_teardown);
}
