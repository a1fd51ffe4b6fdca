#!/bin/sh
# What training refuses, states and keeps, through the real system: errors that name their cause and are
# not tried again, workers of another numeric class kept out of a gang, frozen layers, a replaced head.
set -u
. "$(dirname "$0")/../support/system.sh"

up --workers 2 --slots 1
awk 'BEGIN { srand(7); print "a,b,c,label"
    for (i = 0; i < 640; i++) { x = rand(); y = rand(); z = rand(); print x "," y "," z "," (x > y) + (z > 0.5) } }' >"$T/rows.csv"
head -n 41 "$T/rows.csv" >"$T/few.csv"
maasq dataset import d "$T/rows.csv" --label-column label --json >"$T/out" || bad "import d" "$(cat "$T/out")"
maasq dataset import few "$T/few.csv" --label-column label --json >"$T/out" || bad "import few" "$(cat "$T/out")"

data=d
# train ARGS...: $T/out gets the result's JSON, $T/err what was said.
train() {
    maasq train m --data "$data" --batch 64 --follow --json "$@" >"$T/out" 2>"$T/err"
}
field() { jq -r "$1" "$T/out"; }
# refused PATTERN ARGS...: the training fails with exit status 1, says PATTERN, and was tried once.
refused() {
    pattern=$1
    shift
    train "$@"
    got=$?
    id=$(sed -n 's/.*job \([0-9A-Z]\{26\}\) is.*/\1/p' "$T/err" | head -n 1)
    tried=$(maasq job show "$id" --json | jq '.attempts // 0')
    if [ "$got" -ne 1 ] || ! grep -qE "$pattern" "$T/err"; then
        bad "exit status $got, or not /$pattern/: $*" "$(cat "$T/err")"
    elif [ "$tried" -gt 1 ]; then
        bad "tried $tried times: $*"
    else
        good "refused once: $(tail -n 1 "$T/err")"
    fi
}

refused 'step [0-9]+ of [0-9]+.*smaller lr' --arch mlp:3-8-3 --lr 100 --weight-decay 1 --epochs 60
data=few
refused 'batch: 64 is more than the 40 rows' --arch mlp:3-8-3
data=d
refused 'the model takes' --arch mlp:4-8-3
refused '3 classes; the model.s output has only 2' --arch mlp:3-8-2
refused 'freeze: .conv..* fits no trainable tensor' --arch mlp:3-8-3 --freeze 'conv*'

# --- fine-tuning
maasq model new base --arch mlp:3-8-9 --json >"$T/out" || bad "model new" "$(cat "$T/out")"
train --from base@1 --head 3 --freeze 'fc1.*' --workers 1 --no-reuse || bad "--head --freeze" "$(cat "$T/err")"
one=$(field .weights_hash)
train --from base@1 --head 3 --freeze 'fc1.*' --workers 2 --no-reuse || bad "--head --freeze" "$(cat "$T/err")"
if [ "$one" = "$(field .weights_hash)" ] && [ "$(field .from)" = base@1 ]; then
    good "a frozen layer and a fresh head: one hash for 1 and 2 workers"
else
    bad "a frozen layer and a fresh head" "$one, $(cat "$T/out")"
fi

# --- early stopping, the best epoch
stop="--arch mlp:3-32-3 --validation 0.3 --patience 3 --optimizer adam --lr 0.1 --schedule constant --epochs 200 --no-reuse"
train $stop --workers 1 || bad "early stopping" "$(cat "$T/err")"
one=$(jq -c '[.weights_hash, .steps_run, .validation.best_step]' "$T/out")
train $stop --workers 2 || bad "early stopping" "$(cat "$T/err")"
if [ "$one" = "$(jq -c '[.weights_hash, .steps_run, .validation.best_step]' "$T/out")" ] &&
    jq -e '.validation.stopped and .steps_run < .steps and .validation.best_step == .steps_run - 3 * 7' "$T/out" >/dev/null; then
    good "early stopping: one hash, steps and best epoch for 1 and 2 workers: $one"
else
    bad "early stopping: $one" "$(cat "$T/out")"
fi
data=few
refused 'validation: must be a share|at most 0.5|batch' --arch mlp:3-8-3 --validation 0.5
data=d

# --- reuse: nothing twice, more epochs go on
more="--arch mlp:3-16-3 --schedule constant --optimizer adam"
train $more --epochs 4 --workers 2 || bad "4 epochs" "$(cat "$T/err")"
version=$(field .version)
train $more --epochs 4 || bad "4 epochs again" "$(cat "$T/err")"
if jq -e ".reused and .steps_run == 0 and .version == $version" "$T/out" >/dev/null; then
    good "a finished manifest is answered with its version"
else
    bad "a finished manifest runs again" "$(cat "$T/out")"
fi
train $more --epochs 9 --workers 1 || bad "9 epochs" "$(cat "$T/err")"
one=$(field .weights_hash)
jq -e '.continued_from == 40 and .steps_run == 50' "$T/out" >/dev/null || bad "9 epochs begin anew" "$(cat "$T/out")"
train $more --epochs 9 --workers 2 --no-reuse || bad "9 epochs at once" "$(cat "$T/err")"
if [ "$one" = "$(field .weights_hash)" ] && jq -e '.continued_from == 0 and .steps_run == 90' "$T/out" >/dev/null; then
    good "more epochs go on from the stored state, to the bits of all at once"
else
    bad "more epochs give other bits: $one" "$(cat "$T/out")"
fi

# --- what is shown of a training, while it runs and of its version
maasq train shown --data d --batch 64 --arch mlp:3-8-3 --epochs 4000 --validation 0.1 --follow >"$T/out" 2>"$T/err"
if grep -qE 'epoch .* loss .* accuracy .* val loss .* lr .* samples/s .* workers [12] .* s left' "$T/err"; then
    good "--follow: $(tail -n 1 "$T/err")"
else
    bad "--follow" "$(cat "$T/err")"
fi
maasq model show shown >"$T/out"
if grep -qE '^ *loss .*(▁|▂|▃|▄|▅|▆|▇|█){20}.* -> ' "$T/out" && grep -q 'validation.*"best_step":' "$T/out"; then
    good "model show draws the curve: $(grep -- ' -> ' "$T/out")"
else
    bad "model show" "$(cat "$T/out")"
fi
maasq model show shown --json | jq -e '.meta.curve | length > 20 and (.[0] | .loss > 0 and .step > 0)' >/dev/null ||
    bad "the curve is not stored with the version"

# --- augmentation
FASHION=/usr/share/datasets/fashion-mnist
maasq dataset import i $FASHION/t10k-images-idx3-ubyte.gz --labels $FASHION/t10k-labels-idx1-ubyte.gz --json >"$T/out" ||
    bad "import i" "$(cat "$T/out")"
data=i
change="--arch mlp:784-16-10 --epochs 2 --crop 2 --shift 2 --flip --no-reuse"
train $change --workers 1 || bad "augmentation" "$(cat "$T/err")"
one=$(field .weights_hash)
train $change --workers 2 || bad "augmentation" "$(cat "$T/err")"
two=$(field .weights_hash)
train --arch mlp:784-16-10 --epochs 2 --no-reuse || bad "no augmentation" "$(cat "$T/err")"
if [ "$one" = "$two" ] && [ "$one" != "$(field .weights_hash)" ]; then
    good "augmented images: one hash for 1 and 2 workers"
else
    bad "augmented images" "$one $two $(field .weights_hash)"
fi
data=d
refused 'must be .height,width.' --arch mlp:3-8-3 --flip

# --- a worker of another numeric class
maasq-worker --broker "ipc://$DATA/run/back" --cache "$T/cache" --slots 1 --name other --blas-core Prescott \
    >"$T/other.log" 2>&1 &
other=$!
i=0
until maasq worker list --json | jq -e '.workers | length == 3' >/dev/null || [ $i -ge 300 ]; do
    i=$((i + 1))
    sleep 0.1
done
prints=$(maasq worker list --json | jq '[.workers[].fingerprint] | unique | length')
train --arch mlp:3-8-3 --workers 1..3 --epochs 400 --no-reuse || bad "a mixed fleet" "$(cat "$T/err")"
if [ "$prints" = 2 ] && [ "$(field .workers_seen)" -le 2 ]; then
    good "a worker of another fingerprint is kept out of the gang: $(field .workers_seen) of 3 workers"
else
    bad "a mixed fleet: $prints fingerprints" "$(cat "$T/out" "$T/other.log")"
fi
kill "$other"
wait "$other"

finish
