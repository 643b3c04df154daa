# Lines of the log that could never be written end a run with exit code 2, after the run has been saved.
# A limit on the size of files lets the log grow to 64 KiB only; checkpoints are smaller.
trap '' XFSZ
limited() { (ulimit -f 64; exec "$MANTISSA" train "${TINY[@]}" --set train.model.width=8 --steps 600 --checkpoint-every 0 --out r --quiet); }
exits 2 limited
says err "lines of its logs are not"
[ -d r/checkpoints/step-00000600 ] || fail "expected the last step saved, got $(ls r/checkpoints)"
