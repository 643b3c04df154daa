# A log of an earlier version still opens and goes on. One of a later version is refused, and nothing is written.
exits 0 mantissa train "${TINY[@]}" --steps 6 --checkpoint-every 3 --stats-every 2 --out whole --quiet
[ "$(head -n 1 whole/events.jsonl)" = '{"kind":"log","schema":2,"step":0}' ] || fail "expected the schema first, got $(head -n 1 whole/events.jsonl)"
# As version 1 wrote it: no first line and no kinds.
cp -r whole older
sed -E '1d; s/^\{"kind":"[a-z]+",/{/' whole/events.jsonl >older/events.jsonl
exits 0 mantissa doctor older --no-run
says out "log       6 steps, up to 6 of 6"
never_says out "left out"
for run in whole older; do
  exits 0 mantissa stats "$run" --json
  sed "s/$run//" out >"stats-$run"
done
cmp stats-whole stats-older || fail "expected the same statistics of both logs"
exits 0 mantissa train --device cpu --resume older --steps 8 --quiet
never_says err "event log" "lines"
[ "$(grep -c '"loss"' older/events.jsonl)" = 8 ] || fail "expected 8 steps in the log"
[ "$(grep -n '"schema"' older/events.jsonl)" = "$(grep -n '"step":7,' older/events.jsonl | head -n 1 | cut -d: -f1 | awk '{print $1 - 1}'):{\"kind\":\"log\",\"schema\":2,\"step\":6}" ] ||
  fail "expected the schema between the old lines and the new ones, got $(grep -n '"schema"' older/events.jsonl)"
exits 0 mantissa doctor older --no-run
says out "log       8 steps, up to 8 of 8"
# A later version.
cp -r whole later
sed -i '1s/"schema":2/"schema":3/' later/events.jsonl
cp -r later before
for command in "train --device cpu --resume later --steps 8" "doctor later --no-run" "stats later"; do
  # shellcheck disable=SC2086
  exits 2 mantissa $command
  says err "expected schema at most 2, found 3" "events.jsonl"
done
diff -r later before || fail "expected the run as it was"
