#!/bin/sh
# The README's tour is true: runs the commands of its ```sh blocks, in order, in one shell that stops at
# the first failure, with a home of its own.
set -u
cd "$(dirname "$0")/../.."
. tests/support/system.sh

HOME=$T/home
mkdir -p "$HOME"
DATA=$HOME/.local/share/maasq
export HOME
unset MAASQ_BROKER MAASQ_DATA XDG_DATA_HOME
# The tour names the release build; the one under test may be another.
sed -n '/^## A five-minute tour/,/^## Map/p' README.md | sed -n '/^```sh$/,/^```$/p' | grep -v '^```' |
    sed "s|\$PWD/build/release|$(cd "$B" && pwd)|; s|tour\.onnx|$T/tour.onnx|g" >"$T/tour.sh"
[ "$(wc -l <"$T/tour.sh")" -gt 15 ] || bad "the tour has too few commands: was a heading renamed?"
if sh -eux "$T/tour.sh" >"$T/tour.log" 2>&1; then
    good "the tour"
    [ -s "$T/tour.onnx" ] && good "the exported model" || bad "no exported model"
    grep -q '"name":"tour"' "$T/tour.log" && good "the model over HTTP" ||
        bad "no model over HTTP" "$(tail -n 20 "$T/tour.log")"
else
    bad "the tour stopped" "$(tail -n 20 "$T/tour.log")"
fi
finish
