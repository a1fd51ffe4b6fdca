#!/bin/sh
# client/python/maasq.py, the Python client over libmaasq, against a private system: tests/e2e/python_api.py.
set -u
BUILD=$(cd "${B:-build/release}" && pwd)
python=python3
[ ! -x /usr/bin/python3 ] || python=/usr/bin/python3
command -v $python >/dev/null || {
    echo "python3 is not there: install python3"
    exit 77
}
case $BUILD in *asan* | *tsan*)
    echo "a Python that was not built so cannot load a sanitized library"
    exit 77
    ;;
esac
. "$(dirname "$0")/../support/system.sh"
up --workers 1 --slots 2 --exec 'up.case=tr a-z A-Z' --exec-limits up.case=attempts:1
MAASQ_LIBRARY=$BUILD/libmaasq.so PYTHONDONTWRITEBYTECODE=1
export MAASQ_LIBRARY PYTHONDONTWRITEBYTECODE
if $python -X faulthandler tests/e2e/python_api.py >"$T/out" 2>&1; then
    good "$(tail -n 3 "$T/out" | head -n 1)"
else
    bad "the Python client" "$(cat "$T/out")"
fi
finish
