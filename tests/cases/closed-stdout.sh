# A config that cannot be printed is an error in words, never a panic.
exits 0 mantissa train --print-config
code=0
mantissa train --print-config >/dev/full 2>err || code=$?
[ "$code" = 2 ] || fail "expected exit code 2 where stdout is full, got $code"
says err "No space left on device"
never_says err panicked
