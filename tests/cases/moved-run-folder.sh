# A run folder that is moved or removed while the run writes to it: the run stops, saved, and makes no new folder in the old place.
disturbed() {
  "$MANTISSA" train "${TINY[@]}" --eval-every 0 --checkpoint-every 0 --steps 100000000 --out r --quiet >out 2>err &
  run=$!
  until_step 30 r/events.jsonl
}
disturbed
mv r r2
ends_within 10 "$run"
[ "$ended" = 2 ] || fail "expected exit code 2, got $ended"
says err "the run folder r was moved" "go on with --resume: r2"
[ ! -e r ] || fail "a new folder was made in the old place"
exits 0 mantissa sample --run r2 --tokens 1
disturbed
mkdir aside
mv r aside/r
rm -rf aside
ends_within 10 "$run"
[ "$ended" = 2 ] || fail "expected exit code 2, got $ended"
says err "the run folder r was moved or removed" "go on with --resume: r-rescued-1"
[ ! -e r ] || fail "a new folder was made in the old place"
exits 0 mantissa sample --run r-rescued-1 --tokens 1
