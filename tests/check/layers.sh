#!/bin/sh
# Every #include "..." keeps to tests/layers.txt, and is spelled from the root.
set -eu
cd "$(dirname "$0")/../.."
find shared broker worker client tests -name '*.[ch]' -o -name '*.def' 2>/dev/null | sort | xargs grep -Hn '^ *# *include "' |
    awk '
    BEGIN {
        while ((getline line < "tests/layers.txt") > 0) {
            sub(/#.*/, "", line)
            if (split(line, part, ":") == 2) {
                gsub(/ /, "", part[1]); sub(/^ */, " ", part[2]); if (part[2] == " ") part[2] = " nothing"
                allowed[part[1]] = part[2]
            }
        }
    }
    # Longest listed folder that path lies in, or "".
    function layer(path,   best, l) {
        best = ""
        for (l in allowed)
            if (index(path, l "/") == 1 && length(l) > length(best)) best = l
        return best
    }
    {
        split($0, at, ":")
        file = at[1]
        match($0, /"[^"]*"/)
        included = substr($0, RSTART + 1, RLENGTH - 2)
        if (included ~ /^(lua|web|redis)\//) next    # generated: shared/store/lua, client/gateway/web, deploy/redis
        from = layer(file); to = layer(included)
        if (from == "" || to == "") { bad(file, at[2], included, "not a path from the root"); next }
        if (from == to) next
        n = split(allowed[from], may, " ")
        for (i = 1; i <= n; i++)
            if (index(included, may[i] "/") == 1) next
        bad(file, at[2], included, from " may include only:" allowed[from])
    }
    function bad(file, line, included, why) {
        printf "%s:%s: includes \"%s\": %s\n", file, line, included, why
        wrong++
    }
    END { exit wrong > 0 }'
