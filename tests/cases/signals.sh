# SIGTERM and SIGHUP are heard in an evaluation, in the last one and in a sample: the run ends within seconds, with its last step saved, and goes on.
SMALL=(--device cpu --batch-size 2 --seq-len 16 --set train.model.width=16 --set train.model.heads=2 --set train.model.layers=1)
stops() {
  local signal=$1 code=$2
  shift 2
  rm -rf r said lines
  # Started by name: of a function, the shell would get the signal.
  "$MANTISSA" train "${SMALL[@]}" "$@" --json --out r >lines 2>said &
  local run=$!
  # The step before the evaluation or the sample.
  until grep -q '"step":2,' lines 2>/dev/null; do
    kill -0 "$run" || fail "the run ended early: $(cat said)"
    sleep 0.05
  done
  kill "-$signal" "$run"
  ends_within 10 "$run"
  [ "$ended" = "$code" ] || fail "$signal: expected exit code $code, got $ended: $(cat said)"
  [ -f r/checkpoints/step-00000002/DONE ] || fail "$signal: step 2 is not saved: $(cat said)"
}
stops TERM 143 --eval-every 2 --eval-batches 1000000 --sample-tokens 0 --steps 5
exits 0 mantissa train --resume r --eval-every 0 --eval-batches 1 --quiet
stops HUP 129 --eval-every 0 --eval-batches 1000000 --sample-tokens 0 --steps 2
stops TERM 143 --eval-every 0 --eval-batches 1 --sample-every 2 --sample-tokens 1000000 --steps 5
