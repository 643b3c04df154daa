# Whatever is written into a run folder stays in it: links there are replaced or refused by name.
exits 0 mantissa train "${TINY[@]}" --steps 2 --log csv --out whole --quiet
for name in config.toml.tmp steps.csv.tmp events.jsonl.tmp; do
  rm -rf r
  cp -r whole r
  echo precious >victim
  ln -s ../victim "r/$name"
  exits 0 mantissa train --device cpu --resume r --steps 3 --quiet
  says victim precious
done
for name in events.jsonl steps.csv; do
  rm -rf r
  cp -r whole r
  ln -sf ../victim "r/$name"
  exits 2 mantissa train --device cpu --resume r --steps 3 --quiet
  says err "found a link" "r/$name"
  says victim precious
done
ln -s victim o.safetensors.tmp
exits 0 mantissa cast --to bf16 whole/checkpoints/step-00000002/model.safetensors o.safetensors
says victim precious
