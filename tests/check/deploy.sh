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
    python3 - deploy/compose.yaml deploy/k8s/*/*.yaml <<'PYTHON' || status=1
import os, re, sys, yaml

found = {}
for path in sys.argv[1:]:
    found[path] = list(yaml.safe_load_all(open(path)))
    for document in found[path]:
        assert isinstance(document, dict), path
        for name in document.get("resources", []) if path.endswith("kustomization.yaml") else []:
            assert os.path.exists(os.path.join(os.path.dirname(path), name)), f"{path}: no {name}"


def url(text):
    """Host, port and user that a replica is told."""
    match = re.fullmatch(r"tcp:([^:]+):(\d+),user=(\w+),secret=(\S+)", text)
    assert match, f"--replica-of {text}"
    return match.groups()


# A replica follows a server that listens where it looks, on a network of both, as a user that the server knows.
services = found["deploy/compose.yaml"][0]["services"]
command = services["redis-replica"]["command"]
host, port, user, secret = url(command[command.index("--replica-of") + 1])
state = services[host]
assert state["command"][state["command"].index("--port") + 1] == port, "redis-replica: wrong port"
assert set(state["networks"]) & set(services["redis-replica"]["networks"]), "redis-replica: no network of both"
assert f"{user}.secret" in state["secrets"] and os.path.basename(secret) in services["redis-replica"]["secrets"]
assert f"user {user} " in open("deploy/redis/users-state.acl").read(), f"no user {user}"

pods = {d["metadata"]["name"]: d for path in found for d in found[path] if d.get("kind") == "StatefulSet"}
policies = [d["spec"] for path in found for d in found[path] if d.get("kind") == "NetworkPolicy"]
container = pods["state-replica"]["spec"]["template"]["spec"]["containers"][0]
env = {e["name"]: e["value"] for e in container["env"]}
assert '${MAASQ_REPLICA_OF:+--replica-of "$MAASQ_REPLICA_OF"}' in container["args"][0], container["args"]
host, port, user, secret = url(env["MAASQ_REPLICA_OF"])
args = pods[host]["spec"]["template"]["spec"]["containers"][0]["args"]
assert args[args.index("--port") + 1] == port, "state-replica: wrong port"


def may(way, client, server):
    """Whether a policy lets pods of the one app out to, or in from, the other."""
    mine, key = (server, "ingress") if way == "from" else (client, "egress")
    other = client if way == "from" else server
    return any(
        {"podSelector": {"matchLabels": {"app": other}}} in rule.get(way, [])
        for p in policies
        if p["podSelector"].get("matchLabels") == {"app": mine}
        for rule in p.get(key, [])
    )


for client, server in (("state-replica", host), ("broker", host), ("broker", "state-replica")):
    assert may("from", client, server) and may("to", client, server), f"policies: {client} to {server}"
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
    for folder in deploy/k8s/*/; do
        kubectl kustomize "$folder" >/dev/null || status=1
    done
fi
exit $status
