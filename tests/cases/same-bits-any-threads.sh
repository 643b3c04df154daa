# --threads sets how many threads compute, and no bit of the result.
for n in 1 3; do
  exits 0 mantissa train "${TINY[@]}" --threads "$n" --steps 3 --out "run$n"
  says out "CPU, $n thread"
done
cmp run1/checkpoints/step-00000003/model.safetensors run3/checkpoints/step-00000003/model.safetensors \
  || fail "one thread and three give other weights"
# Another number of threads is the same arithmetic.
exits 0 mantissa train --threads 2 --resume run1 --steps 4
never_says err "not bit for bit"
exits 2 mantissa train --threads 0
says err "--threads" "from 1 to"
