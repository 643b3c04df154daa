# Outside a desktop session no graphics library writes to stderr.
needs_wgpu
exits 0 env -u XDG_RUNTIME_DIR -u NODEVICE_SELECT "$MANTISSA" devices
never_says err "XDG_RUNTIME_DIR"
exits 0 env -u XDG_RUNTIME_DIR -u NODEVICE_SELECT "$MANTISSA" train --device wgpu --batch-size 2 --seq-len 16 --eval-batches 1 --sample-tokens 0 \
  --set train.model.width=16 --set train.model.heads=2 --set train.model.layers=1 --steps 1
never_says err "XDG_RUNTIME_DIR"
