# Measuring kernels works for operands of any size and dtype; it never ends a run.
needs_wgpu
export MANTISSA_CACHE_DIR=$PWD/cache
tuned=(train --device wgpu --tune always --steps 2 --eval-batches 1 --sample-tokens 0)
small=(--batch-size 2 --set train.model.width=16 --set train.model.heads=2 --set train.model.layers=1)
exits 0 mantissa "${tuned[@]}" --model mlp --batch-size 3
never_says err "could not be measured"
exits 0 mantissa "${tuned[@]}" "${small[@]}" --seq-len 16 --recipe fp8-delayed
never_says err "could not be measured"
exits 0 mantissa "${tuned[@]}" "${small[@]}" --seq-len 17 --vocab 257
never_says err "could not be measured"
grep -q '"tuned"' runs/*/events.jsonl || fail "expected a run that says what it measured"
