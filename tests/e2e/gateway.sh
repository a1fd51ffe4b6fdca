#!/bin/sh
# HTTP over a whole private system: inference in JSON and binary form gives the same numbers, jobs come
# back, the page's stream and the metrics show them, a lost broker is said and survived.
set -eu
cd "$(dirname "$0")/../.."
PATH=$(cd "${B:-build/release}" && pwd):$PATH
DIR=$(mktemp -d "${TMPDIR:-/tmp}/gw-XXXX")
OUT=$DIR/out

cleanup() {
    status=$?
    trap - EXIT INT TERM
    [ "$status" -eq 0 ] || tail -n 20 "$DIR"/log/*.log "$OUT" 2>/dev/null || true
    maasq down --data "$DIR" >/dev/null 2>&1 || true
    if grep -raE -A 30 'ERROR: AddressSanitizer|runtime error:|LeakSanitizer|WARNING: ThreadSanitizer' "$DIR"; then
        status=1
    fi
    rm -rf "$DIR"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

die() {
    echo "FAILED: $*"
    exit 1
}
# ask STATUS curl-arguments...: the body goes to $OUT.
ask() {
    want=$1
    shift
    got=$(curl -sS -m 60 -o "$OUT" -w '%{http_code}' "$@")
    [ "$got" = "$want" ] || die "$* gave $got instead of $want: $(cat "$OUT")"
}
# eventually COMMAND...: within 60 s.
eventually() {
    for _ in $(seq 1 300); do
        if "$@"; then return 0; fi
        sleep 0.2
    done
    die "not within 60 s: $*"
}

maasq up --workers 1 --slots 1 --data "$DIR" --detach >/dev/null
MAASQ_BROKER=$(jq -r .broker "$DIR/maasq.json")
export MAASQ_BROKER
URL=$(jq -r .gateway "$DIR/maasq.json")

is_ready() { [ "$(curl -s -m 10 -o /dev/null -w '%{http_code}' "$URL/v2/health/ready")" = 200 ]; }
eventually is_ready
ask 404 "$URL/v2/models/tiny"
maasq model new tiny --arch mlp:4-8-3 --seed 7 >/dev/null
ask 200 "$URL/v2/models/tiny"
[ "$(jq -c '[.versions, .inputs[0].shape, .outputs[0].shape]' "$OUT")" = '[["1"],[-1,4],[-1,3]]' ] ||
    die "metadata: $(cat "$OUT")"
input=$(jq -r '.inputs[0].name' "$OUT")

# JSON, and the same rows as bytes: 1.0 2.0 3.0 4.0 and 4 zeros.
printf '{"id":"q","inputs":[{"name":"%s","shape":[2,4],"datatype":"FP32","data":[[1,2,3,4],[0,0,0,0]]}]}' "$input" >"$DIR/json"
ask 200 -d @"$DIR/json" "$URL/v2/models/tiny/infer"
jq -e '.id == "q" and .model_name == "tiny" and .model_version == "1" and .outputs[0].shape == [2,3]' "$OUT" >/dev/null ||
    die "answer: $(cat "$OUT")"
jq -r '.outputs[0].data[]' "$OUT" | awk '{ printf "%.6g\n", $1 }' >"$DIR/from-json"
printf '\000\000\200\077\000\000\000\100\000\000\100\100\000\000\200\100' >"$DIR/raw"
head -c 16 /dev/zero >>"$DIR/raw"
curl -sS -m 60 -D "$DIR/head" -o "$OUT" -H 'Inference-Header-Content-Length: 0' --data-binary @"$DIR/raw" \
    "$URL/v2/models/tiny/versions/1/infer"
json_bytes=$(tr -d '\r' <"$DIR/head" | awk 'tolower($1) == "inference-header-content-length:" { print $2 }')
[ -n "$json_bytes" ] || die "no Inference-Header-Content-Length in $(cat "$DIR/head")"
tail -c +$((json_bytes + 1)) "$OUT" | od -An -v -tf4 -w4 | awk '{ printf "%.6g\n", $1 }' >"$DIR/from-bytes"
[ "$(wc -l <"$DIR/from-json")" -eq 6 ] || die "six numbers expected: $(cat "$DIR/from-json")"
cmp "$DIR/from-json" "$DIR/from-bytes" || die "JSON and bytes differ"

# What is wrong is the caller's to know, and the service goes on.
ask 400 -d '{"inputs":[{"name":"nope","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}' "$URL/v2/models/tiny/infer"
ask 400 -d "{\"inputs\":[{\"name\":\"$input\",\"shape\":[1,5],\"datatype\":\"FP32\",\"data\":[1,2,3,4,5]}]}" "$URL/v2/models/tiny/infer"
ask 404 -d @"$DIR/json" "$URL/v2/models/tiny/versions/2/infer"
ask 404 -d @"$DIR/json" "$URL/v2/models/other/infer"
ask 200 -d @"$DIR/json" "$URL/v2/models/tiny/infer"

# A job: stored when 202 is said, the same id twice runs once
# (an id of now: another job's with its last letter changed).
id=$(maasq job submit echo --param n=1 --json | jq -r .id | sed 's/[^Z]$/Z/; t; s/Z$/Y/')
ask 202 -H "Idempotency-Key: $id" -d '{"kind":"echo","body":{"n":2}}' "$URL/v1/jobs"
ask 202 -H "Idempotency-Key: $id" -d '{"kind":"echo","body":{"n":2}}' "$URL/v1/jobs"
is_done() { ask 200 "$URL/v1/jobs/$id" && [ "$(jq -r .state "$OUT")" = succeeded ]; }
eventually is_done
ask 200 "$URL/v1/jobs/$id/result"
[ "$(cat "$OUT")" = '{"n":2}' ] || die "result: $(cat "$OUT")"
ask 202 -d '{"kind":"sleep","body":{"ms":600000},"unique":"once","keep_ms":60000,"attempts_max":2,"backoff_ms":10,
    "backoff_max_ms":20,"max_run_ms":700000,"lease_ms":9000,"priority":7}' "$URL/v1/jobs"
sleeper=$(jq -r .id "$OUT")
ask 409 -d '{"kind":"sleep","body":{"ms":1},"unique":"once"}' "$URL/v1/jobs" # names the one that lives
grep -q "$sleeper" "$OUT" || die "unique: $(cat "$OUT")"
ask 202 -d "{\"kind\":\"echo\",\"after\":[\"$sleeper\"],\"on_failure\":\"run\"}" "$URL/v1/jobs"
callback=$(jq -r .id "$OUT")
ask 400 -d '{"kind":"echo","on_failure":"walk"}' "$URL/v1/jobs"
ask 400 -d '{"kind":"echo","attempts_max":5000000000}' "$URL/v1/jobs"
ask 400 -d '{"kind":"echo","colour":"red"}' "$URL/v1/jobs"
grep -q 'known are kind, .*durability' "$OUT" || die "unknown field: $(cat "$OUT")"
ask 409 "$URL/v1/jobs/$sleeper/result"
ask 200 -X DELETE "$URL/v1/jobs/$sleeper?hard=1"
[ "$(jq -r .state "$OUT")" = cancelled ] || die "cancel: $(cat "$OUT")"
called_back() { ask 200 "$URL/v1/jobs/$callback" && [ "$(jq -r .state "$OUT")" = succeeded ]; }
eventually called_back

# What operators see: the model, its alias, the jobs.
maasq model promote tiny@1 prod >/dev/null
has_alias() { curl -s "$URL/metrics" | grep -q '^maasq_model_info{model="tiny",version="1",alias="prod"} 1$'; }
eventually has_alias
curl -s "$URL/metrics" | grep -q '^maasq_up 1$' || die "maasq_up is not 1"
curl -sN -m 30 "$URL/v1/events" 2>/dev/null | sed -n '/^data: /{s/^data: //;p;q}' >"$DIR/frame" || true
jq -e '.ok and (.workers.workers | length == 1) and .models.models[0].name == "tiny"' "$DIR/frame" >/dev/null ||
    die "frame: $(head -c 2000 "$DIR/frame")"

# The page is there, and its stream tells of queues, of jobs by state and of a training while it runs,
# with its loss curve; `status` and `top` tell of the same one.
ask 200 "$URL/"
grep -q '<title>' "$OUT" || die "no page: $(head -c 300 "$OUT")"
awk 'BEGIN { print "a,b,label"; for (i = 0; i < 2000; i++) print i % 7 / 7 "," i % 5 / 5 "," i % 2 }' >"$DIR/rows.csv"
maasq dataset import rows "$DIR/rows.csv" --label-column label >/dev/null
training=$(maasq train curve --data rows --arch mlp:2-64-2 --epochs 10000 --batch 32 --json | jq -r .job)
has_curve() {
    curl -sN -m 30 "$URL/v1/events" 2>/dev/null | sed -n '/^data: /{s/^data: //;p;q}' >"$DIR/frame" || true
    jq -e --arg id "$training" '.queues.queues != null and .status.jobs.leased >= 1 and
        ([.. | objects | select(.id? == $id)] | length) >= 1 and ([.. | objects | .curve? // empty | arrays | select(length > 0)] | length) >= 1' \
        "$DIR/frame" >/dev/null 2>&1
}
eventually has_curve
for page in status "top --once"; do
    maasq $page >"$OUT"
    for text in worker-1 "leased 1" train "loss" tiny prod; do
        grep -q "$text" "$OUT" || die "maasq $page says nothing of $text: $(cat "$OUT")"
    done
done
maasq job cancel "$training" --hard >/dev/null

# The broker dies: said within seconds; it comes back (the supervisor starts it): served again.
pid=$(jq -r '.processes[] | select(.name == "broker").pid' "$DIR/maasq.json")
kill -9 "$pid"
serves_again() {
    is_ready && [ "$(curl -s -m 60 -o "$OUT" -w '%{http_code}' -d @"$DIR/json" "$URL/v2/models/tiny/infer")" = 200 ]
}
eventually serves_again
