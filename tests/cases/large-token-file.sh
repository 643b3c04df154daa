# Tokens stay in their file: 4 GB of them take the memory of the model, and the first step comes soon.
truncate -s 4G train.bin || skip "no file system with holes"
printf '{"vocab_size": 256}' >meta.json
stays_small train.bin
says out "1,932,735,284 tokens of 256 to learn from"

# Without a size of the vocabulary every token is looked at once.
rm meta.json
truncate -s 1G train.bin
printf '\377\001' | dd of=train.bin bs=1 seek=900000000 conv=notrunc 2>/dev/null
exits 0 mantissa train "${TINY[@]}" --data train.bin --steps 1 --out s
says out "tokens of 512"
