# One line of the log that cannot be read costs that line and is told; the steps after it stay.
exits 0 mantissa train "${TINY[@]}" --steps 12 --checkpoint-every 6 --log csv --out whole --quiet
for bad in '' 'a note of mine' '{"loss":1.0}' '{"kind":"step","step":5,"lo' '{"kind":"later"}' '{"step":999,"val_loss":1.0}' "$(printf '\1\2')"; do
  rm -rf r
  cp -r whole r
  n=$(grep -n '^{"kind":"step","step":5,' r/events.jsonl | cut -d: -f1)
  { head -n $((n - 1)) whole/events.jsonl; printf '%s\n' "$bad"; tail -n +$((n + 1)) whole/events.jsonl; } >r/events.jsonl
  exits 0 mantissa train --device cpu --resume r --steps 14 --quiet
  says err "line $n" "1 of the 12 steps taken so far have no line"
  steps=$(grep -c '"loss"' r/events.jsonl)
  [ "$steps" = 13 ] || fail "expected 13 steps in the log after '$bad', got $steps"
  [ "$(wc -l <r/steps.csv)" = 15 ] || fail "expected 14 rows in the table"
  [ -f r/events.jsonl.damaged-1 ] || fail "expected a copy of the log as it was"
done
# A last line that a crash has cut off is nothing to tell.
rm -rf r
cp -r whole r
printf '{"step":13,"lo' >>r/events.jsonl
exits 0 mantissa train --device cpu --resume r --steps 14 --quiet
never_says err "event log"
