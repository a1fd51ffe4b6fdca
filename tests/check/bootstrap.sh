#!/bin/sh
# deploy/bootstrap.sh against a dpkg and an apt of this test: installs what is missing and nothing else,
# says so, lets no service start meanwhile, does nothing the second time, fails when apt does.
set -u
cd "$(dirname "$0")/../.." || exit 1
T=$(mktemp -d "${TMPDIR:-/tmp}/maasq-boot-XXXXXX")
trap 'rm -rf "$T"' EXIT
failed=0
bad() {
    failed=1
    echo "FAIL $*"
    cat "$T/out" "$T/apt.log" 2>/dev/null
}

mkdir -p "$T/bin" "$T/installed"
sed "s|^POLICY=.*|POLICY=$T/policy-rc.d|" deploy/bootstrap.sh >"$T/bootstrap.sh"
grep -q "^POLICY=$T/policy-rc.d" "$T/bootstrap.sh" || bad "POLICY is not where this test expects it"
cp deploy/apt-packages.txt "$T/"
# A package is installed when a file of its name lies in installed/.
cat >"$T/bin/dpkg-query" <<FAKE
#!/bin/sh
for last in "\$@"; do :; done
[ ! -e "$T/installed/\$last" ] || printf installed
FAKE
cat >"$T/bin/apt-get" <<FAKE
#!/bin/sh
echo "\$*" >>"$T/apt.log"
[ ! -e "$T/broken" ] || exit 100
case " \$* " in
*" --simulate "*) [ -e "$T/lists" ] ;;
*" update "*) : >"$T/lists" ;;
*" install "*)
    [ -e "$T/policy-rc.d" ] && ! "$T/policy-rc.d" || echo "services may start" >>"$T/apt.log"
    while [ "\$1" != install ]; do shift; done
    shift
    for word in "\$@"; do case \$word in -*) ;; *) : >"$T/installed/\$word" ;; esac done
    ;;
esac
FAKE
for name in id sudo systemctl update-rc.d; do
    printf '#!/bin/sh\necho 0\n' >"$T/bin/$name"
done
chmod +x "$T"/bin/*
PATH=$T/bin:$PATH
run() { # run STATUS ARGS...
    want=$1
    shift
    : >"$T/apt.log"
    sh "$T/bootstrap.sh" "$@" >"$T/out" 2>&1
    got=$?
    [ $got -eq "$want" ] || bad "bootstrap.sh $* exits with $got instead of $want"
}
said() { grep -qE -- "$1" "$T/out" || bad "it does not say /$1/"; }

run 1 --check
said 'missing: .*libzmq3-dev.*redis-server'
[ ! -s "$T/apt.log" ] || bad "--check installs"
run 0
said 'fetching the package lists'
said 'installing [0-9]+ packages'
said "redis-server is neither running nor enabled"
said 'done: all [0-9]+ packages are installed'
for package in gcc make libzmq3-dev redis-server dataset-fashion-mnist libcmocka-dev; do
    [ -e "$T/installed/$package" ] || bad "$package was not installed"
done
[ ! -e "$T/installed/clang" ] || bad "a package of --dev was installed"
! grep -q 'services may start' "$T/apt.log" || bad "a service may start"
[ ! -e "$T/policy-rc.d" ] || bad "policy-rc.d was left behind"

run 0
said 'nothing to do'
[ ! -s "$T/apt.log" ] || bad "it installs a second time"
rm "$T/installed/jq"
echo kept >"$T/policy-rc.d"
run 0
said 'missing: jq$'
if grep install "$T/apt.log" | grep -q gcc; then bad "it installs what is there"; fi
[ "$(cat "$T/policy-rc.d")" = kept ] || bad "the machine's own policy-rc.d is gone"
run 0 --dev
[ -e "$T/installed/clang" ] || bad "--dev did not install clang"

rm "$T/installed/jq"
: >"$T/broken"
run 1
said 'apt-get (update|install) failed'
run 2 --frobnicate
said 'unknown option --frobnicate'
exit $failed
