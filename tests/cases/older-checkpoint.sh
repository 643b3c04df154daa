# Going on from an older checkpoint drops nothing unasked: it takes a new folder. With --discard-newer it says what it drops.
exits 0 mantissa train "${TINY[@]}" --steps 20 --checkpoint-every 10 --out b --quiet
sum() { find b -type f -exec cksum {} + | sort | cksum; }
before=$(sum)
exits 0 mantissa train --device cpu --resume b/checkpoints/step-00000010 --steps 11 --quiet
says err "goes on in a new folder, b stays as it is" b-from-10-1 --discard-newer
[ "$(sum)" = "$before" ] || fail "expected the run to stay as it is"
[ "$(grep -c '"loss"' b-from-10-1/events.jsonl)" = 11 ] || fail "expected the steps 1 to 11 in the new folder"
exits 0 mantissa train --device cpu --resume b-from-10-1 --steps 12 --quiet
exits 0 mantissa train --device cpu --resume b/checkpoints/step-00000010 --steps 11 --discard-newer --quiet
says err "drops what came after step 10: 10 steps of the log, and of the checkpoints step-00000020: b"
[ "$(ls b/checkpoints | xargs)" = "step-00000010 step-00000011" ] || fail "expected the steps 10 and 11, got $(ls b/checkpoints)"
