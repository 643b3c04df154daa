# A full disk costs a run a warning: steps go on, log lines wait, and both they and the next checkpoint are written once there is room.
[ "$(id -u)" = 0 ] || skip "needs root, to mount a small disk"
mkdir disk
mount -t tmpfs -o size=4m none disk 2>/dev/null || skip "cannot mount a small disk here"
trap 'umount -l disk' EXIT
"$MANTISSA" train "${TINY[@]}" --eval-every 0 --checkpoint-every 2000 --steps 100000000 --out disk/r --quiet >out 2>said &
run=$!
until_there 30 disk/r/checkpoints/step-00002000/DONE
dd if=/dev/zero of=disk/fill bs=4k 2>/dev/null || true
until_there 60 said
says said "cannot write"
rm disk/fill
kill -TERM "$run"
ends_within 20 "$run"
[ "$ended" = 143 ] || fail "expected exit code 143, got $ended: $(cat said)"
never_says said "are lost"
steps=$(grep -c '"lr":' disk/r/events.jsonl)
last=$(sed -n 's/^interrupted after step \([0-9]*\) .*/\1/p' out)
[ "$steps" = "$last" ] || fail "expected a line of each of $last steps in the log, found $steps: $(cat said)"
[ -f "disk/r/checkpoints/step-$(printf %08d "$last")/DONE" ] || fail "step $last is not saved: $(cat said)"
