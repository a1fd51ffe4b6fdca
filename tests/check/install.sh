#!/bin/sh
# `make install`: what it puts below PREFIX works from there (programs, pkg-config, manual pages, units),
# DESTDIR stages without showing in any file, `make uninstall` leaves nothing.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/system.sh
unset MFLAGS MAKELEVEL MAASQ_DATA MAASQ_BLOBS
# Of the make that runs the tests: its variables, not its jobs.
case ${MAKEFLAGS:-} in
*"-- "*) MAKEFLAGS="-- ${MAKEFLAGS#*-- }" && export MAKEFLAGS ;;
*) unset MAKEFLAGS ;;
esac

variant=$(basename "$B")
case $variant in
*san*)
    rm -rf "$T"
    trap - EXIT
    echo "a program that links a sanitized library needs the sanitizer's flags: release and debug only"
    exit 77
    ;;
esac
CC=${CC:-gcc}
install_with() { # install_with TARGET VARIABLE=VALUE...
    target=$1
    shift
    make -s "$target" V="${variant%-clang}" CC="$CC" "$@" >"$T/make.log" 2>&1 || bad "make $target $*" "$(tail -n 20 "$T/make.log")"
}
# holds TEXT COMMAND...
holds() {
    text=$1
    shift
    if "$@" >"$T/out" 2>&1; then good "$text"; else bad "$text" "$(head -c 800 "$T/out")"; fi
}

# Staged: the files say where they will live, not where they lie now.
stage=$T/stage
install_with install DESTDIR="$stage" PREFIX=/opt/mq
holds "files say the prefix" grep -qx 'prefix=/opt/mq' "$stage/opt/mq/lib/pkgconfig/libmaasq.pc"
holds "units start what was installed" grep -q '^ExecStart=/opt/mq/bin/maasq-broker' "$stage/opt/mq/lib/systemd/system/maasq-broker.service"
if grep -rlI "$stage" "$stage" >"$T/out"; then bad "the stage shows in a file" "$(cat "$T/out")"; else good "no file names the stage"; fi
if find "$stage" -type f -perm /022 | grep . >"$T/out"; then bad "others may write" "$(cat "$T/out")"; fi

# Manual pages name every command and every function there is.
for page in man1/maasq.1 man3/maasq.3 man8/maasq-broker.8 man8/maasq-worker.8 man8/maasq-gateway.8; do
    holds "$page" test -s "$stage/opt/mq/share/man/$page"
    ! command -v groff >/dev/null || holds "$page is sound" sh -c "! groff -man -ww -Tutf8 '$stage/opt/mq/share/man/$page' 2>&1 >/dev/null | grep ."
done
sed -n 's/^MQ_COMMAND([a-z_]*, "\([^"]*\)".*/\1/p' client/cli/commands.def | while read -r words; do
    grep -qx "\.B maasq $words" "$stage/opt/mq/share/man/man1/maasq.1" || echo "maasq.1 lacks maasq $words"
done >"$T/lacks"
tr '\n' ' ' <client/include/maasq.h | grep -oE 'MAASQ_API [^(;]*\(' | grep -oE 'maasq_[a-z_]+\($' | tr -d '(' | sort -u >"$T/functions"
[ "$(wc -l <"$T/functions")" -ge 25 ] || bad "the functions of maasq.h were not found" "$(cat "$T/functions")"
while read -r function; do
    grep -qw "$function" "$stage/opt/mq/share/man/man3/maasq.3" || echo "maasq.3 lacks $function"
done <"$T/functions" >>"$T/lacks"
if [ -s "$T/lacks" ]; then bad "the manual pages" "$(cat "$T/lacks")"; else good "the pages name all commands and functions"; fi
install_with uninstall DESTDIR="$stage" PREFIX=/opt/mq
if find "$stage" ! -type d | grep . >"$T/out"; then bad "uninstall leaves files" "$(cat "$T/out")"; else good "uninstall leaves no file"; fi

# Installed: the programs find each other there, and the manual's example links with pkg-config and runs.
prefix=$T/prefix
install_with install PREFIX="$prefix"
PATH=$prefix/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
PKG_CONFIG_PATH=$prefix/lib/pkgconfig
export PATH PKG_CONFIG_PATH
holds "maasq is the installed one" test "$(command -v maasq)" = "$prefix/bin/maasq"
holds "one version" test "maasq $(pkg-config --modversion libmaasq)" = "$(maasq --version)"
{
    printf '#include <maasq.h>\n#include <stdio.h>\nint main(void)\n{\n'
    sed -n '/^\.SH EXAMPLE/,/^\.fi/p' "$prefix/share/man/man3/maasq.3" | grep -v '^\.' | sed 's/\\-/-/g'
    printf 'return 0;\n}\n'
} >"$T/example.c"
holds "the example links" sh -c \
    "'$CC' -std=c11 -Wall -Werror -o '$T/example' '$T/example.c' $(pkg-config --cflags --libs libmaasq)"
holds "it links statically too" sh -c "'$CC' -std=c11 -o '$T/example-static' '$T/example.c' \
    '$prefix/lib/libmaasq.a' $(pkg-config --static --cflags --libs libmaasq | sed 's/-lmaasq//')"
holds "and needs no libmaasq.so then" sh -c "! ldd '$T/example-static' | grep libmaasq"
up --workers 1 --slots 1
[ "$(LD_LIBRARY_PATH=$prefix/lib "$T/example")" = hi ] && good "the example runs" || bad "the example did not print hi"
[ "$("$T/example-static")" = hi ] && good "so does the static one" || bad "the static example did not print hi"
holds "what runs is the installed program" sh -c "readlink /proc/$(jq '.processes[] | select(.name == "broker").pid' "$DATA/maasq.json")/exe | grep -qx '$prefix/bin/maasq-broker'"
finish
