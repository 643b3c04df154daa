# A config that cannot be printed is an error in words, never a panic.
exits 0 mantissa train --print-config
code=0
mantissa train --print-config >/dev/full 2>err || code=$?
[ "$code" = 2 ] || fail "expected exit code 2 where stdout is full, got $code"
says err "No space left on device"
never_says err panicked

# A run goes on without a stdout that is full or that nobody reads, and says so.
code=0
mantissa train "${TINY[@]}" --steps 3 --out full >/dev/full 2>err || code=$?
[ "$code" = 2 ] || fail "expected exit code 2 of a run that could not print, got $code"
says err "warning: cannot write to stdout: No space left on device" "done: 3 steps" "error: stdout did not take"
[ -f full/checkpoints/step-00000003/DONE ] || fail "the run is not saved"
mantissa train "${TINY[@]}" --steps 40 --json --out closed 2>err | head -n 1 >first
[ "${PIPESTATUS[0]}" = 0 ] || fail "expected exit code 0 of a run that nobody reads, got ${PIPESTATUS[0]}"
says err "nobody reads stdout any more"
[ -f closed/checkpoints/step-00000040/DONE ] || fail "the run is not saved"

# A text that cannot be written is an error.
code=0
mantissa sample --run full --tokens 5 >/dev/full 2>err || code=$?
[ "$code" = 2 ] || fail "expected exit code 2 of a text that could not be written, got $code"
says err "cannot write the text to stdout: No space left on device"

# A reader that has seen enough is no error.
set +e
mantissa devices 2>err | head -n 1 >/dev/null
code=${PIPESTATUS[0]}
set -e
[ "$code" = 0 ] || fail "expected exit code 0 where the reader has gone, got $code: $(cat err)"
