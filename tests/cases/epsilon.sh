# An epsilon that is 0 as f32, or that a device may take for 0, is refused: weights whose gradients are all 0 would become NaN.
for eps in 0 1e-46 1e-40 1e39 -1e-8; do
  exits 2 mantissa train "${TINY[@]}" --steps 1 --out run --set "train.optim.eps=$eps"
  says err 'optim.eps: expected a value of at least 1.1754944e-38' 'got'
  [ ! -e run ] || fail "eps $eps left a run folder behind"
done
exits 0 mantissa train "${TINY[@]}" --steps 1 --out run --set train.optim.eps=1e-12
