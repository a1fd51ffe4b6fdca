#!/bin/sh
# Installs what maasq needs to be built, run and tested on Debian 12, from deploy/apt-packages.txt.
# Installs only what is missing, leaves no service running, may be repeated at any time.
#
#   deploy/bootstrap.sh           packages of the sections build, run and test
#   deploy/bootstrap.sh --dev     the section dev too (clang, linters)
#   deploy/bootstrap.sh --check   installs nothing: prints what is missing, exits 1 when something is
set -eu

LIST=$(dirname "$0")/apt-packages.txt
SECTIONS="build run test"
CHECK=no
POLICY=/usr/sbin/policy-rc.d

say() { echo "bootstrap: $*"; }
die() {
    echo "bootstrap: $*" >&2
    exit 1
}

for arg in "$@"; do
    case $arg in
    --dev) SECTIONS="$SECTIONS dev" ;;
    --check) CHECK=yes ;;
    -h | --help)
        sed -n '2,7s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *)
        echo "bootstrap: unknown option $arg (known: --dev --check --help)" >&2
        exit 2
        ;;
    esac
done

# Names of the chosen sections, one a line.
wanted() {
    awk -v sections=" $SECTIONS " '
        /^# section:/ { on = index(sections, " " $3 " ") > 0; next }
        { sub(/#.*/, "") }
        on && NF { print $1 }' "$LIST"
}

# Those of them that dpkg does not have.
missing() {
    for package in $(wanted); do
        status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$status" = installed ] || echo "$package"
    done
}

command -v dpkg-query >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 ||
    die "this is not Debian (no dpkg, no apt-get): install the equivalents of $LIST yourself"

MISSING=$(missing | tr '\n' ' ')
MISSING=${MISSING% }
if [ -z "$MISSING" ]; then
    say "all $(wanted | wc -l) packages are installed, nothing to do"
    exit 0
fi
say "missing: $MISSING"
[ "$CHECK" = no ] || exit 1

if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 ||
        die "must run as root, or with sudo installed: apt-get install -y $MISSING"
    say "installing needs root: running again with sudo"
    exec sudo sh "$0" "$@"
fi

LOG=$(mktemp)
export DEBIAN_FRONTEND=noninteractive

# Debian starts a service when its package is installed. maasq starts its own private redis-servers,
# so for the time of the installation policy-rc.d says no (it is honoured with and without systemd).
cleanup() {
    rm -f "$LOG" "$POLICY"
    [ ! -e "$POLICY.before-maasq" ] || mv "$POLICY.before-maasq" "$POLICY"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
[ ! -e "$POLICY" ] || mv "$POLICY" "$POLICY.before-maasq"
printf '#!/bin/sh\n# Temporary, by maasq deploy/bootstrap.sh.\nexit 101\n' >"$POLICY"
chmod 755 "$POLICY"

apt() {
    apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" >"$LOG" 2>&1
}
# Word splitting of $MISSING is meant.
install_missing() { apt install --no-install-recommends $MISSING; }
update() {
    say "fetching the package lists (apt-get update)"
    apt update || {
        tail -n 20 "$LOG" >&2
        die "apt-get update failed: is the package mirror reachable? (see /etc/apt/sources.list)"
    }
}

apt install --simulate --no-install-recommends $MISSING || update
say "installing $(echo "$MISSING" | wc -w) packages (apt-get install)"
if ! install_missing; then
    # Lists that are older than the mirror name files that are gone.
    update
    install_missing || {
        tail -n 30 "$LOG" >&2
        die "apt-get install failed, see above"
    }
fi

case " $MISSING " in
*" redis-server "*)
    if command -v systemctl >/dev/null 2>&1; then
        systemctl disable redis-server >/dev/null 2>&1 || true
    elif command -v update-rc.d >/dev/null 2>&1; then
        update-rc.d redis-server disable >/dev/null 2>&1 || true
    fi
    say "the system's own redis-server is neither running nor enabled (maasq starts private ones)"
    ;;
esac

MISSING=$(missing | tr '\n' ' ')
[ -z "$MISSING" ] || die "still missing: $MISSING"
say "done: all $(wanted | wc -l) packages are installed"
