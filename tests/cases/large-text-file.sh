# A long text stays in its file: it is looked through once and read by windows, in the memory of the model. It gives the run that it gives in memory.
yes 'A line of text with an umlaut, ä, and some more words to it.' | head -c 600000000 >long.txt || true
printf '\n' >>long.txt
stays_small long.txt
says out "long.txt (text file): 600,000,001 bytes, last tenth held out"

# What is no text is found wherever it stands.
printf '\377' | dd of=long.txt bs=1 seek=500000000 conv=notrunc 2>/dev/null
exits 2 mantissa train "${TINY[@]}" --data long.txt --steps 1 --out s
says err "expected UTF-8 text, found an invalid byte at" "long.txt"
