# A log without line breaks takes bounded memory, however long it is.
exits 0 mantissa train "${TINY[@]}" --steps 2 --log csv --out r --quiet
: >r/events.jsonl
truncate -s 3G r/events.jsonl
truncate -s 1G r/steps.csv
exits 0 bash -c 'ulimit -v 2000000; "$0" train --device cpu --resume r --steps 3 --quiet' "$MANTISSA"
says err "no line of the 2 steps taken so far"
[ "$(grep -c '"loss"' r/events.jsonl)" = 1 ] || fail "expected the line of step 3"
