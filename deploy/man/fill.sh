#!/bin/sh
# Fills a manual page: the line @OPTIONS@ becomes what the program's --help says of its options, the
# line @COMMANDS@ what it says of its commands, @FUNCTIONS@ the prototypes of maasq.h, @VERSION@ its version.
# So the page cannot be out of date.
#
#   fill.sh PROGRAM PAGE.in
set -eu
PROGRAM=$1
VERSION=$("$PROGRAM" --version | awk '{ print $NF; exit }')
HELP=$("$PROGRAM" --help)
HEADER=$(dirname "$0")/../../client/include/maasq.h
FUNCTIONS=$(tr '\n' ' ' <"$HEADER" | grep -oE 'MAASQ_API [^;]*\);' | sed 's/MAASQ_API //; s/  */ /g')
export FUNCTIONS
printf '%s\n' "$HELP" | awk -v page="$2" -v version="$VERSION" '
    function quote(text) {
        gsub(/\\/, "\\e", text)
        gsub(/-/, "\\-", text)
        sub(/^[.\047]/, "\\\\\\&&", text)
        return text
    }
    # Name and value, two blanks or the column, then the text.
    /^  --/ {
        split($0, word, " ")
        name = word[1]
        value = word[2] ~ /^[A-Z]/ ? word[2] : ""
        text = $0
        sub(/^  --[^ ]+ */, "", text)
        if (value != "") text = substr(text, length(value) + 1)
        sub(/^ +/, "", text)
        options = options ".TP\n.B " quote(name) (value == "" ? "" : " \\fI" quote(value) "\\fR") "\n" quote(text) "\n"
    }
    /^  maasq / {
        at = match(substr($0, 3), /   */)
        name = substr($0, 3, at - 1)
        text = substr($0, at + 2)
        sub(/^ +/, "", text)
        commands = commands ".TP\n.B " quote(name) "\n" quote(text) "\n"
    }
    END {
        while ((getline line < page) > 0) {
            if (line == "@OPTIONS@") printf "%s", options
            else if (line == "@COMMANDS@") printf "%s", commands
            else if (line == "@FUNCTIONS@") print ENVIRON["FUNCTIONS"]
            else { gsub(/@VERSION@/, version, line); print line }
        }
    }'
