# `sample` without --run takes the newest run that writes text, and says which; a newer run of an mlp does not stand in its way.
exits 2 mantissa sample
says err "no run of a gpt with weights" "--run DIR"
exits 0 mantissa train "${TINY[@]}" --steps 1 --quiet
exits 0 mantissa train --device cpu --model mlp --batch-size 8 --steps 1 --eval-batches 1 --quiet
exits 0 mantissa sample --device cpu --tokens 3
says err "note: text from runs/gpt-tiny-bf16-1"
exits 2 mantissa sample --device cpu --run runs/mlp-*
says err "expected the run of a gpt, found an mlp"
