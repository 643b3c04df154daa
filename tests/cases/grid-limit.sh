# More sequences than a side of a grid of workgroups holds run on a GPU as on the CPU.
needs_wgpu
many=(--set train.model.width=16 --set train.model.heads=2 --set train.model.layers=1 --seq-len 2 --batch-size 66000 --steps 1
  --eval-batches 1 --sample-tokens 0)
exits 0 mantissa train --device wgpu "${many[@]}"
says out "step 1/1"
