# A run whose checkpoints are gone starts again, says so even with --quiet, and keeps its log.
exits 0 mantissa train "${TINY[@]}" --steps 20 --checkpoint-every 5 --out r --quiet
before=$(wc -l <r/events.jsonl)
rm -r r/checkpoints/*
exits 0 mantissa train --device cpu --resume r --quiet
says err "no checkpoint that can be used is there, the run starts again" "events.jsonl.damaged-1"
[ "$(wc -l <r/events.jsonl.damaged-1)" = "$before" ] || fail "expected the old log whole, got $(wc -l <r/events.jsonl.damaged-1) of $before lines"
[ -d r/checkpoints/step-00000020 ] || fail "expected a run of 20 steps, got $(ls r/checkpoints)"
