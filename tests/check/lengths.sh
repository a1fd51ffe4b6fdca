#!/bin/sh
# Functions of at most 70 lines (aim: 60), files of at most 600 (aim: 400; tests 800), lines of at most 100
# columns.
# The layout of clang-format is taken for granted: a body opens and closes in column 0.
set -eu
cd "$(dirname "$0")/../.."
find shared broker worker client tests -name '*.[ch]' 2>/dev/null | sort | xargs awk '
    function bad(text) { print text; wrong = 1 }
    function check_file(   limit) {
        limit = file ~ /^tests\// ? 800 : 600
        if (last > limit) bad(file ": " last " lines (limit " limit ")")
    }
    FNR == 1 {
        check_file()
        file = FILENAME; start = 0
    }
    { last = FNR }
    length($0) > 100 && $0 !~ /https?:/ { bad(FILENAME ":" FNR ": " length($0) " columns (limit 100)") }
    /^{/ { start = FNR; name = previous }
    /^}/ && start {
        if (FNR - start - 1 > 70) bad(FILENAME ":" start ": " FNR - start - 1 " lines in: " name " (limit 70)")
        start = 0
    }
    /^[A-Za-z]/ { previous = $0 }
    END {
        check_file()
        exit wrong
    }'
