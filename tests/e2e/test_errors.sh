#!/bin/sh
# Bad input from a user's hands, through the real system: each case must name its cause on stderr, exit
# with 1 (2 for wrong usage) and leave the service unharmed.
set -u
. "$(dirname "$0")/../support/system.sh"

up --workers 2 --slots 1
FASHION=/usr/share/datasets/fashion-mnist

# refused STATUS PATTERN COMMAND...: must fail with STATUS and say PATTERN on stderr.
refused() {
    want=$1 pattern=$2
    shift 2
    "$@" >"$T/out" 2>"$T/err"
    got=$?
    if [ "$got" -ne "$want" ]; then
        bad "exit status $got instead of $want: $*" "$(cat "$T/err")"
    elif ! grep -qiE "$pattern" "$T/err"; then
        bad "stderr does not say /$pattern/: $*" "$(cat "$T/err")"
    else
        good "$*: $(head -n 1 "$T/err")"
    fi
}
# works COMMAND...: must succeed.
works() {
    if "$@" >"$T/out" 2>"$T/err"; then
        good "$*"
    else
        bad "exit status $?: $*" "$(cat "$T/err")"
    fi
}

# --- usage
refused 2 'unknown command|usage' maasq frobnicate
refused 2 'unknown option|usage' maasq status --frobnicate
refused 2 'name|usage' maasq dataset import
refused 2 'workers' maasq train x --data d --arch mlp:4-2 --workers 3..1
refused 2 'epochs' maasq train x --data d --arch mlp:4-2 --epochs none

# --- names that are not there
refused 1 'nosuch' maasq infer nosuch --input "$T/in.npy"
refused 1 'nosuch' maasq model show nosuch
refused 1 'nosuch' maasq train m --arch mlp:784-10 --data nosuch
refused 1 'nosuch.onnx' maasq model import m "$T/nosuch.onnx"
refused 1 'arch' maasq model new m --arch mlp:784-banana

# --- malformed data files
gzip -dc $FASHION/t10k-images-idx3-ubyte.gz | head -c 100000 >"$T/short-images"
gzip -dc $FASHION/t10k-labels-idx1-ubyte.gz >"$T/labels"
refused 1 'short-images.*(truncated|bytes)' maasq dataset import d "$T/short-images" --labels "$T/labels"
head -c 3 "$T/labels" >"$T/tiny"
refused 1 'tiny' maasq dataset import d "$T/tiny" --format idx
head -c 20000 $FASHION/t10k-labels-idx1-ubyte.gz | head -c 3000 >"$T/cut.gz"
refused 1 'gzip|truncated' maasq dataset import d "$T/cut.gz" --format idx
printf 'a,b,label\n1,2,0\n3,x4\n' >"$T/ragged.csv"
refused 1 'line 3' maasq dataset import d "$T/ragged.csv" --label-column label
printf 'a,b,label\n1,"2,0\n' >"$T/quote.csv"
refused 1 'line 2|quote' maasq dataset import d "$T/quote.csv" --label-column label
printf '\223NUMPY\001\000\020\000{bad header' >"$T/bad.npy"
refused 1 'bad.npy' maasq dataset import d "$T/bad.npy"

# --- malformed models
works maasq model new good --arch mlp:4-3-2 --seed 1
works maasq model export good "$T/good.onnx"
size=$(wc -c <"$T/good.onnx")
head -c $((size - 20)) "$T/good.onnx" >"$T/cut.onnx"
refused 1 'truncated|bytes|offset|end' maasq model import m "$T/cut.onnx"
sed 's/Gemm/Zemm/g' "$T/good.onnx" >"$T/unknown.onnx"
refused 1 'Zemm' maasq model import m "$T/unknown.onnx"
refused 1 'Zemm' sh -c "maasq model check $T/unknown.onnx >&2" # its report goes to standard output
head -c 4096 /dev/urandom >"$T/noise.onnx"
refused 1 'noise|offset|protobuf|ONNX' maasq model import m "$T/noise.onnx"

# --- requests that do not fit the model
echo '[[1,2,3,4]]' >"$T/fits.json"
works maasq infer good --input "$T/fits.json"
echo '[[1,2,3]]' >"$T/wide.json"
refused 1 'shape' maasq infer good --input "$T/wide.json"
echo '[[1,2,' >"$T/broken.json"
refused 1 'json' maasq infer good --input "$T/broken.json"

# --- too large
head -c 2000000 /dev/zero >"$T/large"
refused 1 '1048576|1 MiB|limit' maasq job submit echo --input "$T/large"

# --- unknown kinds and versions
refused 1 'kind' maasq job submit nosuchkind
refused 1 'good@9|version' maasq model promote good@9 prod
refused 1 'not_found|no job|unknown|not found' maasq job show 01ARYZ6S41TSV4RRFFQ69G5FAV

# --- hostile bytes on the sockets leave the broker serving
endpoint=$(jq -r .broker "$DATA/maasq.json" | sed 's|tcp://||')
head -c 65536 /dev/urandom | timeout 5 bash -c "exec 3<>/dev/tcp/${endpoint%:*}/${endpoint#*:}; cat >&3" 2>/dev/null

# --- and the service is unharmed
works maasq job submit echo --input "$T/fits.json" --wait
works maasq status
if [ "$(maasq worker list --json | jq '.workers | length')" -eq 2 ]; then
    good "both workers are still there"
else
    bad "a worker is gone" "$(maasq worker list)"
fi
finish
