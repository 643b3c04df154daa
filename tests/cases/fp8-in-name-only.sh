# The banner claims fp8 for the layers that are in fp8, and says why the others are not.
SMALL=(--device cpu --eval-batches 1 --sample-tokens 0 --steps 1 --set train.model.width=32 --set train.model.heads=2 --set train.model.layers=1)
train() { exits 0 mantissa train "${SMALL[@]}" "$@"; cat out err >all; }
for recipe in fp8-delayed fp8-current mxfp8; do
  train --recipe $recipe --seq-len 17 --batch-size 1
  says all "fp8 is off, 0 of 5 linear layers in it" "number of rows 17 is not a multiple of" "the model keeps it out"
  never_says all "linear layers in e4m3"
  train --recipe $recipe --seq-len 32 --batch-size 2
  says all "4 of 5 linear layers in e4m3" "not gpt.head (the model keeps it out)"
done
train --recipe fp8-delayed --seq-len 32 --batch-size 2 --amax-history 8
says all "amax of 8 micro-steps"
