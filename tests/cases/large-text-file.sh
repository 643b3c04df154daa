# A long text stays in its file: it is looked through once and read by windows, in the memory of the model. It gives the run that it gives in memory.
[ -r /proc/self/status ] || skip "no /proc to read the resident memory from"
yes 'A line of text with an umlaut, ä, and some more words to it.' | head -c 600000000 >long.txt || true
printf '\n' >>long.txt
"$MANTISSA" train "${TINY[@]}" --data long.txt --steps 100000 --out r >out 2>err &
pid=$!
until_there 30 r/events.jsonl
peak=$(awk '/^VmHWM/ { print $2 }' /proc/$pid/status)
kill -TERM $pid
ends_within 20 $pid
[ "$peak" -lt 200000 ] || fail "expected less than 200 MB of resident memory, got $peak kB"
says out "long.txt (text file): 600,000,001 bytes, last tenth held out"

# What is no text is found wherever it stands.
printf '\377' | dd of=long.txt bs=1 seek=500000000 conv=notrunc 2>/dev/null
exits 2 mantissa train "${TINY[@]}" --data long.txt --steps 1 --out s
says err "expected UTF-8 text, found an invalid byte at" "long.txt"
