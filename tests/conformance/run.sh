#!/bin/sh
# The public vectors under $MAASQ_SHARED/data (default ../shared/data) and those of this repository.
#
#   tests/conformance/run.sh BUILD_DIR [OPTION...]     options of the program: --json, --list FILE
set -eu
cd "$(dirname "$0")/../.."
build=$1
shift
archive=${MAASQ_SHARED:-../shared}/data/onnx-conformance.tar.xz
set -- "$build/tests/conformance/conformance" --known tests/conformance/known.txt "$@" tests/data/onnx
if [ -r "$archive" ]; then
    folder=$(mktemp -d "${TMPDIR:-/tmp}/maasq-suite-XXXXXX")
    trap 'rm -rf "$folder"' EXIT
    tar xJf "$archive" -C "$folder"
    set -- "$@" "$folder"
else
    echo "no $archive: only the vectors of this repository"
fi
status=0
"$@" || status=$?
exit "$status"
