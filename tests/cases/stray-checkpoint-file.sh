# A file in the place of the next checkpoint, or with the name of a leftover, is a warning; the run goes on and can be resumed.
exits 0 mantissa train "${TINY[@]}" --steps 12 --checkpoint-every 1 --keep 2 --out a --quiet
touch a/checkpoints/step-00000013 a/checkpoints/.removed-x a/checkpoints/.unfinished-step-00000014
exits 0 mantissa train --device cpu --resume a --steps 16 --quiet
says err warning: step-00000013.aside
[ -f a/checkpoints/step-00000016/DONE ] || fail "expected the checkpoint of step 16"
exits 0 mantissa train --device cpu --resume a --steps 17 --quiet
# The newest one is damaged: the one before it is named, with the command.
printf x | dd of=a/checkpoints/step-00000017/model.safetensors bs=1 seek=200 conv=notrunc status=none
exits 2 mantissa train --device cpu --resume a --steps 18 --quiet
says err "the checkpoint of step 16 is whole: mantissa train --resume a/checkpoints/step-00000016"
exits 0 mantissa train --device cpu --resume a/checkpoints/step-00000016 --steps 18 --quiet
