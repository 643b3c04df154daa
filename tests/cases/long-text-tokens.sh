# A long text has the tokens of the whole, also where a tokenizer puts something in front of a text.
# 3 MB of words of the letters a to h and of blanks: every character is a token, and one is put in front.
awk 'BEGIN { srand(1); for (i = 0; i < 60000; i++) { for (w = 0; w < 10; w++) printf "%c%c%c%s", 97 + rand() * 6, 97 + rand() * 6, 97 + rand() * 6, w < 9 ? "  " : "\n" } }' >text.txt
size=$(wc -c <text.txt)
train() { mantissa train "${TINY[@]}" --steps 1 --data text.txt "$@"; }
grouped() { printf "%s" "$1" | sed -E ':a; s/([0-9])([0-9]{3})($|,)/\1,\2\3/; ta'; }
want=$(grouped $((size + 1)))
exits 0 train --tokenizer "$CASES/data/prefix-space-tokenizer.json" --out a
says out " $want tokens of 257"
exits 0 train --tokenizer "$CASES/data/mark-in-front-tokenizer.json" --out b
says out " $want tokens of 289"
