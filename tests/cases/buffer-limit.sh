# A model with more weights than a device binds at once is refused by its use, both sizes and what helps; nothing is left behind.
needs_wgpu
limit=$(mantissa devices | sed -n 's/.*limits: buffers of \([0-9.]*\) GiB.*/\1/p' | head -n 1)
[ "$limit" = 0.1 ] || skip "this adapter binds $limit GiB at once"
exits 3 mantissa train --device wgpu --model gpt2-124m --steps 1 --out run
says err "expected buffers of at most" "for weights" "--device cpu"
[ ! -e run ] || fail "expected no run folder"
