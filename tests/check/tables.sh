#!/bin/sh
# What the tables of client/README.md (features) and tests/README.md (complaints, failures) name exists: tests,
# commands with their options, functions and fields of maasq.h, paths of the gateway.
set -eu
cd "$(dirname "$0")/../.."
T=$(mktemp -d "${TMPDIR:-/tmp}/mq-tables.XXXXXX")
trap 'rm -rf "$T"' EXIT

# section FILE HEADING: its rows, without those of heads
section() {
    awk -v head="$2" '
        /^##/ { is_in = index($0, head) > 0; next }
        is_in && /^\|/ && !/^\|---/ { if (rows++ > 0) print }' "$1"
}
words() { grep -oE '`[^`]+`' | tr -d '`'; }

# Names of tests: functions that stand in a list of tests, or scripts.
find tests -name 'test_*.c' -exec cat {} + >"$T/all"
tests() {
    words | while read -r name; do
        case $name in
        tests/*.sh) [ -f "$name" ] || echo "$1: no file $name" ;;
        *.c) [ -f "tests/$name" ] || echo "$1: no file tests/$name" ;;
        *[!a-z0-9_]*) echo "$1: $name is no name of a test" ;;
        *) grep -qE "(^|[( ])${name}[,)]" "$T/all" || echo "$1: no test $name" ;;
        esac
    done
}

section client/README.md 'What the queue can do' >"$T/features"
section tests/README.md 'complain of most' >"$T/complaints"
section tests/README.md 'The failure matrix' >"$T/failures"
[ "$(wc -l <"$T/features")" -ge 25 ] && [ "$(wc -l <"$T/complaints")" -eq 15 ] && [ "$(wc -l <"$T/failures")" -ge 18 ] || {
    echo "fewer rows found than there are: this check is broken"
    exit 1
}
{
    cut -d '|' -f 6 "$T/features" | tests 'client/README.md, features'
    cut -d '|' -f 4 "$T/complaints" | tests 'tests/README.md, complaints'
    cut -d '|' -f 3 "$T/failures" | tests 'tests/README.md, failures'

    # Without a test no row says anything.
    awk -F '|' '$6 !~ /`/ { print "client/README.md: no test in " $2 }' "$T/features"
    awk -F '|' '$4 !~ /`/ { print "tests/README.md: no test in " $2 }' "$T/complaints"
    awk -F '|' '$3 !~ /`/ { print "tests/README.md: no test in " $2 }' "$T/failures"

    # "job submit --at --priority": the command is in the table, and takes the options.
    tr '\n' ' ' <client/cli/commands.def | sed 's/MQ_COMMAND(/\n/g' >"$T/commands"
    cut -d '|' -f 3 "$T/features" | words | grep -vE '^maasq_' | while read -r command; do
        name=$(printf '%s\n' "$command" | sed 's/ --.*//')
        row=$(grep -F ", \"$name\"," "$T/commands") || {
            echo "client/README.md: no command $name"
            continue
        }
        for option in $(printf '%s\n' "$command" | grep -oE -- '--[a-z-]+'); do
            printf '%s\n' "$row" | grep -qE -- "\[${option}[] ]" || echo "client/README.md: $name has no $option"
        done
    done

    cut -d '|' -f 4 "$T/features" | words | while read -r name; do
        grep -qwF -- "$name" client/include/maasq.h || [ -f "worker/include/$name" ] ||
            echo "client/README.md: maasq.h has no $name"
    done
    cut -d '|' -f 5 "$T/features" | words | while read -r name; do
        path=$(printf '%s\n' "$name" | grep -oE '/[^ ]*' || true)
        if [ -n "$path" ]; then
            grep -qF "\"$path\"" client/gateway/routes.def || echo "client/README.md: the gateway has no $path"
        else
            grep -qF "\"$name\"" client/gateway/jobs.c || echo "client/README.md: a job over HTTP has no $name"
        fi
    done
} >"$T/found"
cat "$T/found"
[ ! -s "$T/found" ]
