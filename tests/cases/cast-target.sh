# cast never writes over the file it reads, nor over another one unasked; integers are copied; pipes and devices are refused by name.
header='{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"ids":{"dtype":"I64","shape":[1],"data_offsets":[8,16]}}'
{
  printf "\\x$(printf %02x ${#header})\\0\\0\\0\\0\\0\\0\\0%s" "$header"
  printf '\0\0\200\77\0\0\0\100\7\0\0\0\0\0\0\0' # 1, 2; 7
} >in.safetensors
cp in.safetensors whole
ln -s in.safetensors link
ln in.safetensors hard
for target in in.safetensors ./in.safetensors link hard; do
  exits 2 mantissa cast --to e4m3 --force in.safetensors "$target"
  says err 'found the same'
done
cmp in.safetensors whole || fail "the source was changed"

exits 0 mantissa cast --to e4m3 in.safetensors coded
says out '1 tensor as e4m3, 1 tensor copied (I64)'
says coded F8_E4M3 I64
exits 2 mantissa cast --to e5m2 in.safetensors coded
says err '--force'
says coded F8_E4M3
exits 0 mantissa cast --to e5m2 --force in.safetensors coded
says coded F8_E5M2
exits 0 mantissa cast --from e5m2 coded back
says out '1 tensor from e5m2 as f32, 1 tensor copied (I64)'
cmp <(tail -c 16 back) <(tail -c 16 whole) || fail "1, 2 and 7 do not come back"

mkfifo pipe
exits 2 timeout 20 "$MANTISSA" cast --to e4m3 pipe out.safetensors
says err 'found a pipe (FIFO)'
exits 2 mantissa cast --to e4m3 /dev/zero out.safetensors
says err 'found a device'
exits 2 mantissa cast --to e4m3 --force in.safetensors pipe
says err 'found a pipe (FIFO)'
