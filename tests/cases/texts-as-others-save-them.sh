# A byte-order mark goes, UTF-16, gzip and zstd are read, and what is no text is named, alone or in a folder.
train() { mantissa train "${TINY[@]}" --steps 1 "$@"; }
line='the quick brown fox jumps over the lazy dog'
plain=$(for _ in $(seq 20); do echo "$line"; done)
bytes="880 bytes"

printf '\xef\xbb\xbf%s\n' "$plain" >mark.txt
exits 0 train --data mark.txt --out a
says out "text file): $bytes"
if command -v iconv >/dev/null; then
  { printf '\xff\xfe'; printf '%s\n' "$plain" | iconv -f UTF-8 -t UTF-16LE; } >utf16.txt
  exits 0 train --data utf16.txt --out b
  says out "text file, UTF-16): $bytes"
  printf '%s\n' "$plain" | iconv -f UTF-8 -t UTF-16LE >unmarked.txt
  exits 2 train --data unmarked.txt --out c
  says err "UTF-16 text (little-endian) without a mark" "unmarked.txt"
fi
printf '%s\n' "$plain" | gzip >notes.txt.gz
exits 0 train --data notes.txt.gz --out d
says out "text file, gzip): $bytes"
if command -v zstd >/dev/null; then
  printf '%s\n' "$plain" | zstd -q >notes.txt.zst
  exits 0 train --data notes.txt.zst --out e
  says out "text file, zstd): $bytes"
fi
printf '\x89PNG\r\n\x1a\n\0\0' >picture.txt
exits 2 train --data picture.txt --out c
says err "expected UTF-8 text, found a PNG image" "picture.txt"
head -c 40 notes.txt.gz >cut.gz
exits 2 train --data cut.gz --out c
says err "a damaged gzip file"

# The mark in files of other people's programs.
head -c 800 /dev/zero >train.bin
printf '\xef\xbb\xbf{"vocab_size": 256}' >meta.json
exits 0 train --data train.bin --out f
says out "tokens of 256"
{ printf '\xef\xbb\xbf'; cat "$CASES/data/prefix-space-tokenizer.json"; } >tokenizer.json
exits 0 train --data mark.txt --tokenizer tokenizer.json --out g
says out "881 tokens of 257"
exits 2 train --data '' --out c
says err "--data: expected a file, a folder or"
