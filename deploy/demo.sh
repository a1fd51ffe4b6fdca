#!/bin/sh
# The main job, end to end, on real data: import, train while a worker is killed, train again
# undisturbed, compare the bits, compress, publish, serve, stop. Exits with 1 when any of it is not
# true and leaves no process behind in either case.
set -eu
# In some locales awk and printf write 0,5 for 0.5.
export LC_ALL=C

B=${B:-build/release}
PATH=$(cd "$B" && pwd):$PATH
FASHION=${MAASQ_FASHION:-/usr/share/datasets/fashion-mnist}
DATA=$(mktemp -d "${TMPDIR:-/tmp}/maasq-demo-XXXXXX")
ACCURACY_MIN=0.875
REQUESTS=1000
BEGAN=$(date +%s)
SUPERVISOR=

step() { printf '\n== %s\n' "$*"; }
die() {
    printf 'demo: FAILED: %s\n' "$*" >&2
    exit 1
}
# check CONDITION-IN-AWK TEXT: numbers are compared by awk because the shell has no fractions.
check() {
    awk "BEGIN { exit !($1) }" || die "$2 (not true: $1)"
    printf '   ok: %s\n' "$2"
}

# Processes of this demo: all of the supervisor's session, also those whose parent was killed, and
# whatever names its folder.
left_over() {
    [ -z "$SUPERVISOR" ] || pgrep -as "$SUPERVISOR" || true
    pgrep -af "$DATA" || true
}
cleanup() {
    status=$?
    trap - EXIT INT TERM
    [ -z "${TRAIN_PID:-}" ] || kill "$TRAIN_PID" 2>/dev/null || true
    maasq down --data "$DATA" >/dev/null 2>&1 || true
    if left_over | grep -v '<defunct>' >&2; then
        echo "demo: FAILED: processes were left behind" >&2
        status=1
    fi
    rm -rf "$DATA"
    if [ "$status" -eq 0 ]; then
        echo "demo: everything above is true, nothing is left running ($(($(date +%s) - BEGAN)) s)"
    else
        echo "demo: FAILED (exit status $status)" >&2
        status=1
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

step "A private system: two redis-servers, a broker, 3 workers, a gateway"
maasq up --workers 3 --slots 1 --data "$DATA" --detach
MAASQ_BROKER=$(jq -r .broker "$DATA/maasq.json")
GATEWAY=$(jq -r .gateway "$DATA/maasq.json")
SUPERVISOR=$(jq -r .supervisor.pid "$DATA/maasq.json")
export MAASQ_BROKER
maasq status
check "$(maasq worker list --json | jq '.workers | length') == 3" "3 workers are registered"
check "$(pgrep -cs "$SUPERVISOR" redis-server) == 2" "two redis-servers of its own run"
[ -S "$DATA/run/state.sock" ] && [ -S "$DATA/run/blobs.sock" ] || die "Redis is not on Unix sockets"

step "Import Fashion-MNIST: 60,000 training and 10,000 test images"
maasq dataset import fashion "$FASHION/train-images-idx3-ubyte.gz" \
    --labels "$FASHION/train-labels-idx1-ubyte.gz"
maasq dataset import fashion-test "$FASHION/t10k-images-idx3-ubyte.gz" \
    --labels "$FASHION/t10k-labels-idx1-ubyte.gz"
rows() { maasq dataset show "$1" --json | jq .meta.rows; }
check "$(rows fashion) == 60000 && $(rows fashion-test) == 10000" "all rows are there"

train() {
    maasq train demo --arch mlp:784-256-128-10 --data fashion --eval fashion-test --epochs 5 \
        --batch 256 --shards 8 --lr 0.15 --schedule cosine --momentum 0.9 --seed 1 "$@"
}

step "Train on 3 workers and kill one of them with SIGKILL in the middle"
train --workers 1..3 --follow --json >"$DATA/train1.json" 2>"$DATA/train1.log" &
TRAIN_PID=$!
tail -f "$DATA/train1.log" --pid "$TRAIN_PID" 2>/dev/null &
TAIL_PID=$!
killed=
for _ in $(seq 1 6000); do
    kill -0 "$TRAIN_PID" 2>/dev/null || break
    progress=$(maasq job list --filter "state=leased kind=train" --json | jq -r '
        [.jobs[]? | .progress | select(. != null and .step != null)][0] |
        if . == null then empty else "\(.step) \(.steps) \(.workers)" end')
    set -- $progress
    if [ $# -eq 3 ] && [ "$1" -ge $(($2 / 3)) ] && [ "$3" -ge 2 ]; then
        victim=$(maasq worker list --json | jq -r '[.workers[] | select(.jobs | length > 0)][0].pid')
        kill -9 "$victim"
        killed="step $1 of $2"
        running=$(maasq job list --filter "state=leased kind=train" --json | jq '.jobs | length')
        break
    fi
done
[ -n "$killed" ] && [ "$running" -eq 1 ] || die "the training ended before a worker could be killed"
echo "   killed worker process $victim with SIGKILL near $killed"
wait "$TRAIN_PID" || die "the training did not survive the kill: $(tail -n 3 "$DATA/train1.log")"
TRAIN_PID=
wait "$TAIL_PID" || true
jq . "$DATA/train1.json"
grep -qE 'step [0-9]+/[0-9]+ .*loss [0-9.]+ .*accuracy [0-9.]+ .*[0-9]+ samples/s.* [0-9]+ m?s left' "$DATA/train1.log" ||
    die "no live progress with loss, accuracy, samples/s and the remaining time"
restarts() { jq '[.processes[].restarts] | add' "$DATA/maasq.json"; }
for _ in $(seq 1 100); do
    [ "$(restarts)" -eq 0 ] || break
    sleep 0.1
done
check "$(restarts) == 1" "the killed worker was started again"

step "The same manifest again, on one undisturbed worker, every step run"
train --workers 1..1 --no-reuse --follow --json >"$DATA/train2.json"
jq '{version, manifest, weights_hash, steps_run, workers_seen}' "$DATA/train2.json"
hash1=$(jq -r .weights_hash "$DATA/train1.json")
hash2=$(jq -r .weights_hash "$DATA/train2.json")
[ -n "$hash1" ] && [ "$hash1" != null ] || die "no weight hash"
[ "$(jq -r .manifest "$DATA/train1.json")" = "$(jq -r .manifest "$DATA/train2.json")" ] ||
    die "the manifests differ"
[ "$(jq -r .version "$DATA/train1.json")" != "$(jq -r .version "$DATA/train2.json")" ] ||
    die "the second training was not run"
check "$(jq -r .steps_run "$DATA/train2.json") == $(jq -r .steps "$DATA/train2.json")" \
    "the second run really ran all $(jq -r .steps "$DATA/train2.json") steps"
printf '   3 workers, one killed: %s\n   1 worker, undisturbed: %s\n' "$hash1" "$hash2"
[ "$hash1" = "$hash2" ] || die "the weight hashes differ"
echo "   ok: equal to the last bit"

step "Evaluate on the 10,000 test images"
version=$(jq -r .version "$DATA/train1.json")
maasq evaluate "demo@$version" --data fashion-test --json >"$DATA/evaluate.json"
accuracy=$(jq -r .accuracy "$DATA/evaluate.json")
check "$accuracy >= $ACCURACY_MIN" "test accuracy $accuracy is at least $ACCURACY_MIN"

step "Compress: prune 80 % with fine-tuning, clip, quantize to int8"
optimize() {
    maasq optimize "$@" --data fashion --eval fashion-test --json >"$DATA/optimize.json"
    version=$(jq -r .version "$DATA/optimize.json")
}
optimize "demo@$version" --pass prune:0.8,scope=global --finetune 2 --lr 0.1
check "$(jq '.nonzero / .report.before.nonzero' "$DATA/optimize.json") < 0.21" "80 % of the weights are zero"
optimize "demo@$version" --pass clip:max-norm=2.5
check "$(jq '.report.passes[0].clipped' "$DATA/optimize.json") > 0" "rows above the norm were clipped"
optimize "demo@$version" --pass quantize:int8
check "$(jq '.bytes / .report.before.bytes' "$DATA/optimize.json") < 0.3" "int8 takes less than a third of the bytes"
maasq model list demo | tee "$DATA/table"
for column in version parent pass accuracy size 'us a row'; do
    head -n 1 "$DATA/table" | grep -q "$column" || die "the table has no column $column"
done
check "$(maasq model show demo --json | jq '[.versions[].meta | select(.metrics.accuracy > 0 and .bytes > 0 and .latency_us > 0)] | length') == 5" \
    "five versions with accuracy, size and latency of one row"

step "Promote the best version to prod"
best=$(maasq model show demo --json |
    jq -r '[.versions[] | select(.meta.metrics.accuracy != null)] | max_by(.meta.metrics.accuracy) | .version')
maasq model promote "demo@$best" prod
[ "$(maasq model show demo@prod --json | jq -r .version)" = "$best" ] || die "prod is not demo@$best"

step "Serve $REQUESTS asynchronous requests through the C client"
maasq bench serve demo@prod --requests "$REQUESTS" --data fashion-test --json >"$DATA/serve.json"
jq . "$DATA/serve.json"
check "$(jq -r .answered "$DATA/serve.json") == $REQUESTS" "all $REQUESTS requests were answered"
check "$(jq -r .accuracy "$DATA/serve.json") >= 0.84" "the served answers are as good as the model"
check "$(jq '.latency_ms | .p50 > 0 and .p99 >= .p50' "$DATA/serve.json" | sed 's/true/1/; s/false/0/')" "latency percentiles are told"

step "The same question through HTTP"
maasq dataset rows fashion-test --first 1 --json |
    jq -c '{inputs: [{name: "input", shape: [1, 784], datatype: "FP32", data: .rows[0].x}]}' \
        >"$DATA/request.json"
curl -sS --fail-with-body -H 'Content-Type: application/json' -d @"$DATA/request.json" \
    "$GATEWAY/v2/models/demo/infer" >"$DATA/answer.json" || die "HTTP: $(cat "$DATA/answer.json")"
jq -c '{model_name, model_version, outputs: [.outputs[] | {name, shape, datatype, data}]}' "$DATA/answer.json"
[ "$(jq -r .model_version "$DATA/answer.json")" = "$best" ] || die "HTTP did not serve prod"
class=$(jq -r '.outputs[0].data | flatten | to_entries | max_by(.value).key' "$DATA/answer.json")
label=$(maasq dataset rows fashion-test --first 1 --json | jq -r '.rows[0].y')
maasq dataset rows fashion-test --first 1 --json | jq -c '[.rows[0].x | flatten]' >"$DATA/row.json"
same=$(maasq infer demo@prod --input "$DATA/row.json" --json | jq -r '.outputs[0].data | flatten | to_entries | max_by(.value).key')
check "$class == $same" "HTTP answers class $class, as the C client does (label $label)"
curl -sS --fail "$GATEWAY/metrics" >"$DATA/metrics"
check "$(grep -c '^maasq_' "$DATA/metrics") >= 20" "Prometheus finds its metrics"

step "Export the ONNX file"
maasq model export demo@prod "$DATA/demo.onnx"
[ -s "$DATA/demo.onnx" ] || die "the exported file is empty"
maasq model check "$DATA/demo.onnx"

step "Stop everything"
maasq down --data "$DATA"
