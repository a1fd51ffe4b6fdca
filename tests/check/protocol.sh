#!/bin/sh
# The lists of shared/wire/PROTOCOL.md are those of messages.def and error.def.
set -eu
cd "$(dirname "$0")/../.."
sh shared/wire/protocol.sh | cmp -s - shared/wire/PROTOCOL.md || {
    sh shared/wire/protocol.sh | diff shared/wire/PROTOCOL.md - | head -n 10
    echo "shared/wire/PROTOCOL.md is behind messages.def or error.def: run make protocol"
    exit 1
}
