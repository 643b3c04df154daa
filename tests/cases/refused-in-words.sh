# A wrong value is refused in one sentence that names the entry and its flag, the range, and the name that was meant.
for flag in --lr --steps --batch-size --seq-len --grad-accum --grad-clip --clip-value --weight-decay --eval-every --keep --seed --warmup --vocab; do
  for value in -1 -1e-3 -inf; do
    exits 2 mantissa train "$flag" "$value"
    says err "$flag" expected
    never_says err "unexpected argument" digit
  done
done
exits 2 mantissa train --recipe f16 --min-scale -0.1
says err "train.recipe.scaler.min_scale (--min-scale): expected"
exits 2 mantissa train --recipe fp16
says err "--recipe: expected one of" "got \`fp16\` (did you mean f16?)"
never_says err "invalid value"
exits 2 mantissa train --recipe fp8
says err "did you mean fp8-delayed or fp8-current or mxfp8?"
exits 2 mantissa train --device cuda
says err "cards of every vendor are \`wgpu\` here"
exits 2 mantissa train --set train.recipe.name=bfloat16
says err "train.recipe.name (--recipe)" "did you mean bf16?"
exits 2 mantissa train --set train.batch=-1
says err "train.batch (--batch-size)" "expected a whole number of at least 0, got -1"
never_says err usize
exits 2 mantissa train --set train.batch=
says err "train.batch (--batch-size)" "--set removed it"
exits 2 mantissa train --set train.recipe.fp8.margin=2
says err "train.recipe.fp8.margin (--margin): expected a recipe that has it (fp8-delayed), got bf16"
exits 2 mantissa train --lr 1e-3 --min-lr 1e-2
says err "train.schedule.min_lr (--min-lr): expected"
exits 0 mantissa train --set train.schedule.lr=.001 --print-config
says out "lr = 0.001"
exits 2 mantissa sample --samples 0
says err "--samples" "expected a whole number from 1"
exits 2 mantissa train --adaptive-clip 0
says err "--adaptive-clip" "above 0 and at most 100"
exits 2 mantissa train --lr 1e39
says err "train.schedule.lr (--lr)" "got 1e39"
exits 2 mantissa train --set train.lr=1
says err "did you mean train.schedule.lr (--lr)?"
exits 2 mantissa train --batch-size 1048576 --seq-len 8192
says err "train.batch (--batch-size): expected tensors of at most 1099511627776 elements" "try a smaller --batch-size or --seq-len"
exits 2 mantissa cast --force 1
says err "cast: --force: expected --to or --from beside it"
mkdir empty && : >empty/config.toml
exits 2 mantissa train --resume empty
says err "empty/config.toml: expected every entry of a run, found an empty file"
printf '[run]\nmodel = "mlp"\n' >empty/config.toml
exits 2 mantissa train --resume empty
says err "the run needs this entry"
never_says err "missing field"
mkfifo pipe
for command in "train --resume pipe" "train --init-from pipe" "sample --run pipe" "stats pipe" "doctor pipe"; do
  # shellcheck disable=SC2086 # words of a command
  exits 2 mantissa $command
  says err "found a pipe (FIFO): pipe"
done
exits 0 mantissa train "${TINY[@]}" --steps 1 --out $'x\ny'
says out '| x\ny'
[ "$(grep -c '^done: ' out)" = 1 ] && ! grep -q '^y' out || fail "expected one line: $(cat out)"
exits 0 mantissa train --device cpu --batch-size 2 --seq-len 1 --eval-batches 1 --sample-tokens 0 --set train.model.layers=1 --steps 1 --quiet
exits 0 mantissa train "${TINY[@]}" --steps 2 --warmup 5
says out "warm-up 5, longer than the run: lr is never reached"
