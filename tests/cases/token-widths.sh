# Token files are read in the width they are written in, or refused by name; never as halves of wider tokens.
numbers() { # FORMAT COUNT [HEADER WORDS]: little-endian numbers 0, 1, 2, .. behind a header
  python3 -c '
import struct, sys
form, count, head = sys.argv[1], int(sys.argv[2]), [int(w) for w in sys.argv[3:]]
sys.stdout.buffer.write(struct.pack("<256i", *(head + [0] * (256 - len(head)))) if head else b"")
sys.stdout.buffer.write(b"".join(struct.pack("<" + form, i) for i in range(count)))' "$@"
}
npy() { # DESCR FORMAT COUNT
  python3 -c '
import struct, sys
descr, form, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
text = repr({"descr": descr, "fortran_order": False, "shape": (count,)}).ljust(117) + "\n"
sys.stdout.buffer.write(b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text.encode())
sys.stdout.buffer.write(b"".join(struct.pack("<" + form, i) for i in range(count)))' "$@"
}
command -v python3 >/dev/null || skip "python3 is not installed"
train() { mantissa train "${TINY[@]}" --steps 1 "$@"; }

numbers I 5000 20240801 7 5000 >train.bin
exits 0 train --data train.bin --out a
says out "llm.c, u32): 4,500 tokens of 5,000 to learn from, 500 held out"
numbers H 5000 20240520 1 5000 >gpt2.bin
exits 0 train --data gpt2.bin --out b
says out "llm.c, u16): 4,500 tokens of 5,000"
exits 2 train --data gpt2.bin --token-dtype u32 --out c
says err "--token-dtype: expected u16, as the header says"

# Beside a good file, too.
numbers H 5000 >train.bin
numbers I 5000 20240801 7 5000 >val.bin
exits 0 train --data train.bin --out d
says out "5,000 tokens of 5,000 to learn from, 5,000 held out (val.bin)"
numbers I 5000 >val.bin
exits 2 train --data train.bin --out c
says err "every second 16-bit value 0, as in 32-bit tokens; give --token-dtype u32" "val.bin"

numbers I 5000 >plain.bin
exits 2 train --data plain.bin --out c
says err "--token-dtype u32" "plain.bin"
exits 0 train --data plain.bin --token-dtype u32 --out e
says out "u32): 4,500 tokens of 5,000"
grep -q 'token_dtype = "u32"' e/config.toml || fail "expected the width in the config of the run"
numbers q 5000 >plain.bin
exits 2 train --data plain.bin --out c
says err "--token-dtype u64"
exits 0 train --data plain.bin --token-dtype i64 --out f
says out "i64): 4,500 tokens of 5,000"

npy '<u4' I 5000 >array.npy
exits 0 train --data array.npy --out g
says out "NumPy array, u32): 4,500 tokens of 5,000"
cp array.npy renamed.bin
exits 0 train --data renamed.bin --out h
says out "NumPy array, u32): 4,500 tokens of 5,000"
npy '>u2' H 5000 >array.npy
exits 2 train --data array.npy --out c
says err "found big-endian ones (dtype >u2)"
npy '<i4' i 5000 >array.npy
printf '\377\377\377\377' | dd of=array.npy bs=1 seek=200 conv=notrunc 2>/dev/null
exits 2 train --data array.npy --out c
says err "cannot read the data: array.npy: expected tokens" "found -1 at position"
never_says err "array.npy: array.npy"
numbers H 10 20240520 1 -5 >negative.bin
exits 2 train --data negative.bin --out c
says err "expected a number of tokens in the header of llm.c, found -5"

# Wider than they are written: no tokenizer has such tokens, unless the user says so. Of a known vocabulary the message names the width.
rm val.bin
numbers H 5000 >wide.bin
exits 2 train --data wide.bin --token-dtype u32 --out c
says err "token values below 1,048,576" "(read as u32)" "give --token-dtype u16" "--vocab"
printf '{"vocab_size": 5000}' >meta.json
exits 2 train --data wide.bin --token-dtype u32 --out c
says err "values below 5000, the size of the vocabulary" "(read as u32; --token-dtype says how they lie there)"
rm meta.json

# A vocabulary that 16 bits do not hold.
rm train.bin
numbers H 5000 >train.bin
printf '{"vocab_size": 128256}' >meta.json
exits 2 train --data train.bin --out c
says err "128,256 of the vocabulary do not fit the usual 16 bits" "--token-dtype"
[ ! -e c ] || fail "expected no run folder of a refused run"
