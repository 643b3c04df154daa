# A recipe is what its name says, or is refused; overrides and other changes stand in the banner and in the run's name.
refused() {
  exits 2 mantissa train "${TINY[@]}" --steps 1 "$@"
  says err expected
  [ ! -e runs ] || fail "a refused run left $(ls runs)"
}
refused --recipe bf16 --set train.recipe.low=f16
says err "train.recipe.low (--recipe): expected bf16"
refused --set 'train.recipe.name="f32"' --set train.recipe.scaler.init_scale=1024
says err "train.recipe.scaler.init_scale (--init-scale): expected a recipe that has it"
refused --recipe f16 --set 'train.recipe.low="bf16"'
refused --recipe bf16 --set 'train.recipe.fp8={format="hybrid", scaling="current", amax_epsilon=0.0, power_of_two=false}'
says err "train.recipe.fp8.amax_epsilon: expected a recipe that has it"
exits 0 mantissa train "${TINY[@]}" --steps 1 --override gpt.head=f32
cat out err >all
says all "overrides gpt.head=f32" "gpt-tiny-bf16-override"
[ -d runs/gpt-tiny-bf16-override-1 ] || fail "expected the override in the name of the run, got $(ls runs)"
