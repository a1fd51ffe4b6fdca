#!/bin/sh
# Fills the lists of PROTOCOL.md from messages.def and error.def. Writes the page to standard output.
#
#   shared/wire/protocol.sh > page        (make protocol puts it in place; tests/check/protocol.sh compares)
set -eu
cd "$(dirname "$0")/../.."

codes() {
    echo '| code | meaning |'
    echo '|---|---|'
    sed -n 's/^MQ_CODE([A-Z_]*, *"\([a-z_]*\)", *"\(.*\)")$/| `\1` | \2 |/p' shared/base/error.def
}

# One row a message or item; the comment above it, if there is one, follows as a paragraph.
messages() {
    awk '
        function word(n) { return parts[n] }
        function say(text) { fields = fields (fields == "" ? "" : " · ") text }
        /^ *\/\*/ { note = ""; is_note = 1 }
        is_note {
            line = $0
            is_last = line ~ /\*\/ *$/
            sub(/^ *\/?\* ?/, "", line)
            sub(/ *\*\/ *$/, "", line)
            note = note (note == "" ? "" : " ") line
            if (is_last) is_note = 0
            next
        }
        /^MQ_/ {
            macro = $0; sub(/\(.*/, "", macro)
            inside = $0; sub(/^[A-Z0-9_]*\(/, "", inside); sub(/\) *$/, "", inside)
            if (macro == "MQ_MSG") {
                split(inside, quoted, "\"")
                split(quoted[1], parts, /, */)
                head = "**`" parts[1] "`** " parts[2] ", " quoted[2] " → " quoted[4]
                gsub(/client,worker/, "client or worker", head)
                fields = ""; shown = note; note = ""
                next
            }
            n = split(inside, parts, /, */)
            key = parts[3]; gsub(/"/, "", key)
            if (macro == "MQ_ITEM") { head = "item `" parts[1] "`"; fields = ""; shown = note; note = "" }
            else if (macro == "MQ_U64") say("`" key "` u64")
            else if (macro == "MQ_I64") say("`" key "` i64")
            else if (macro == "MQ_BOOL") say("`" key "` bool")
            else if (macro == "MQ_TEXT") say("`" key "` text(" parts[4] ")")
            else if (macro == "MQ_TEXTS") say("`" key "` texts(" parts[4] " x " parts[5] ")")
            else if (macro == "MQ_LIST") say("`" key "` list(" parts[4] ", " parts[5] ")")
            else if (macro == "MQ_END") {
                print "- " head ": " fields
                if (shown != "" && shown !~ /^----/) print "  <br>" shown
            }
        }' shared/wire/messages.def
}

awk -v codes="$(codes)" -v messages="$(messages)" '
    /^<!-- end -->$/ { is_skipped = 0 }
    !is_skipped
    /^<!-- codes -->$/ { print codes; is_skipped = 1 }
    /^<!-- messages -->$/ { print messages; is_skipped = 1 }' shared/wire/PROTOCOL.md
