#!/bin/sh
# What deploy/ says about the programs is true: every option that a unit, a container or a manual page
# gives to a program is one that the program has; manifests and units are well-formed.
set -eu
cd "$(dirname "$0")/../.."
B=${B:-build/release}
status=0

# Words of the deployment files in order: after a daemon's name its options follow.
options() {
    find deploy -type f \( -name '*.service' -o -name '*.yaml' -o -name Dockerfile -o -name '*.md' \) | sort |
        xargs awk '
            FNR == 1 { program = "" }
            /^[ \t]*#/ || /^[ \t]*$/ { program = ""; next }
            {
                line = $0
                gsub(/[\[\]",`]/, " ", line)
                n = split(line, word, " ")
                for (i = 1; i <= n; i++) {
                    w = word[i]
                    sub(/^.*=\/usr/, "/usr", w)
                    if (w ~ /^(.*\/)?maasq-(broker|worker|gateway)$/) { program = w; sub(/.*\//, "", program) }
                    else if (w ~ /^(&&|\|\||;|redis-server|maasq|exec)$/) program = ""
                    else if (program != "" && w ~ /^(MAASQ_[A-Z_]*ARGS=)?--[a-z]/) {
                        sub(/^[^-]*/, "", w)
                        sub(/=.*/, "", w)
                        print program, w, FILENAME ":" FNR
                    }
                }
            }'
}
list=$(options)
[ "$(printf '%s\n' "$list" | wc -l)" -ge 20 ] || {
    echo "fewer options found in deploy/ than there are: this check is broken"
    status=1
}
for program in maasq-broker maasq-worker maasq-gateway; do
    help=$("$B/$program" --help)
    printf '%s\n' "$list" | while read -r name option place; do
        [ "$name" != "$program" ] || printf '%s\n' "$help" | grep -qE -- "^ *$option( |\$)" || {
            echo "$place: $program has no option $option"
            exit 1
        }
    done || status=1
done

# Manual pages are filled in from the programs; nothing may be left over.
for page in deploy/man/*.in; do
    name=$(basename "$page" .in)
    program=${name%.*}
    text=$(deploy/man/fill.sh "$B/$program" "$page")
    case $text in
    *@OPTIONS@* | *@COMMANDS@* | *@FUNCTIONS@* | *@VERSION@*)
        echo "$page: is not filled in"
        status=1
        ;;
    esac
    if grep -q '^@OPTIONS@' "$page" && ! printf '%s\n' "$text" | grep -q '^\.B \\-\\-log\\-level'; then
        echo "$page: has no options"
        status=1
    fi
done

# With the tools that are there.
if command -v systemd-analyze >/dev/null 2>&1; then
    for unit in deploy/systemd/*.service deploy/systemd/*.target; do
        # Programs and pages are not installed here; anything else is a fault.
        if systemd-analyze verify "$unit" 2>&1 |
            grep -vE "is not executable|Command 'man|maasq-[a-z@1-]+\.service: (Failed to create|Unit .* not found)" | grep .; then
            status=1
        fi
    done
fi
if python3 -c 'import yaml' 2>/dev/null; then
    python3 - deploy/compose.yaml deploy/k8s/base/*.yaml <<'PYTHON' || status=1
import sys, yaml
for path in sys.argv[1:]:
    for document in yaml.safe_load_all(open(path)):
        assert isinstance(document, dict), path
PYTHON
fi
# Several brokers: each is told to others under an endpoint of its own, and all agree on the shards.
brokers=$(grep -oE -- '--(front|back)-told=[^ ]+' deploy/compose.yaml | sort -u | wc -l)
shards=$(grep -oE -- '--shards=[0-9]+' deploy/compose.yaml | sort | uniq -c | awk '{ print $1 }')
if [ "$brokers" != 4 ] || [ "$shards" != 2 ]; then
    echo "deploy/compose.yaml: two brokers with --front-told and --back-told of their own and the same --shards"
    status=1
fi
replicas=$(sed -n 's/^  replicas: //p' deploy/k8s/base/broker.yaml)
shards=$(grep -oE -- '--shards [0-9]+' deploy/k8s/base/broker.yaml | cut -d ' ' -f 2)
if [ "$replicas" -lt 2 ] || [ "$shards" -lt "$replicas" ] ||
    ! grep -qF -- '--front-told "tcp://$HOSTNAME.broker:7700"' deploy/k8s/base/broker.yaml; then
    echo "deploy/k8s/base/broker.yaml: several replicas, a shard for each at least, and each told by its own name"
    status=1
fi
for address in $(grep -hoE 'tcp://broker-[0-9]:77[0-9]+' deploy/compose.yaml | sort -u); do
    grep -qE -- "-told=$address\$" deploy/compose.yaml || {
        echo "deploy/compose.yaml: no broker is told to be at $address"
        status=1
    }
done
if command -v kubectl >/dev/null 2>&1; then
    kubectl kustomize deploy/k8s/base >/dev/null || status=1
fi
exit $status
