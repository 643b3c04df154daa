# Loss scales whose inverse is no f32 are refused; skipped steps say what happened to the scale.
refused() {
  exits 2 mantissa train "${TINY[@]}" --recipe f16 --steps 1 "$@"
  says err "inverse is finite"
}
refused --init-scale 1e-39 --min-scale 0
refused --min-scale 1e-39
exits 0 mantissa train "${TINY[@]}" --recipe f16 --steps 4 --hysteresis 3 --init-scale 1073741824
cat out err >all
says all "loss_scale 1073741824 kept: overflow 1 of 2 in a row that --hysteresis 3 forgives" "loss_scale 1073741824 kept: overflow 2 of 2" \
  "loss_scale 1073741824 -> 536870912"
never_says all "1073741824 -> 1073741824" 1073741800
exits 0 mantissa train "${TINY[@]}" --recipe f16 --steps 3 --init-scale 1073741824 --min-scale 1073741824
cat out err >all
says all "loss_scale stays at its floor, 1073741824"
never_says all "1073741824 -> 1073741824"
