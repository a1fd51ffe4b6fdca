# Sourced by the shell end-to-end tests: a private system in a temporary directory, and a tally that
# ends in the line the runner reads. Needs B (the build folder), set by tests/run.sh.
B=${B:-build/release}
PATH=$(cd "$B" && pwd):$PATH
T=$(mktemp -d "${TMPDIR:-/tmp}/maasq-sh-XXXXXX")
DATA=$T/data
passed=0
failed=0
SUPERVISORS= # of every system that this script started

good() {
    passed=$((passed + 1))
    printf 'ok   %s\n' "$1"
}
bad() {
    failed=$((failed + 1))
    printf 'FAIL %s\n     %s\n' "$1" "${2:-}"
}
# up ARGS...: starts the system and points the command line at it.
up() {
    if ! maasq up "$@" --data "$DATA" --detach >"$T/up.log" 2>&1; then
        bad "maasq up" "$(cat "$T/up.log")"
        finish
    fi
    MAASQ_BROKER=$(jq -r .broker "$DATA/maasq.json")
    export MAASQ_BROKER
    SUPERVISORS="$SUPERVISORS $(jq -r .supervisor.pid "$DATA/maasq.json")"
}
# left_over: processes of those systems: all of their sessions (slots too, whose command line does not
# name the folder), and whatever names the folder.
left_over() {
    {
        for supervisor in $SUPERVISORS; do pgrep -as "$supervisor"; done
        pgrep -af "$DATA"
    } | grep -v '<defunct>'
}
# finish: stops what was started, prints the tally, exits.
finish() {
    [ ! -f "$DATA/maasq.json" ] || maasq down --data "$DATA" >"$T/down.log" 2>&1 ||
        bad "maasq down" "$(cat "$T/down.log")"
    if left_over >"$T/left"; then bad "processes were left behind" "$(cat "$T/left")"; fi
    if grep -raE -A 30 'ERROR: AddressSanitizer|runtime error:|LeakSanitizer|WARNING: ThreadSanitizer' "$T"; then
        bad "a process printed a sanitizer's report"
    fi
    rm -rf "$T"
    trap - EXIT
    printf '%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" -eq 0 ]
    exit
}
trap 'bad "the script ended early"; finish' EXIT
trap 'exit 130' INT TERM
