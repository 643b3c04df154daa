# A run goes on from any folder, and its data are those with the same digest wherever they lie.
mkdir a b
for _ in $(seq 500); do echo 'some text to learn from'; done >a/notes.txt
(cd a && mantissa train "${TINY[@]}" --data notes.txt --steps 2 --out r --quiet)
exits 0 mantissa train --resume a/r --steps 3 --quiet
mv a/notes.txt b/
exits 2 mantissa train --resume a/r --steps 4 --quiet
says err "a/notes.txt (not there)" "--data PATH"
exits 0 mantissa train --resume a/r --data b/notes.txt --steps 4 --quiet
never_says err "bit for bit"
for _ in $(seq 500); do echo 'some other text'; done >other.txt
exits 2 mantissa train --resume a/r --data other.txt --steps 5 --quiet
says err "run.data: expected 12000 bytes"
# All of it moved, and the run alone.
mkdir c
mv a b c/
exits 0 mantissa train --resume c/a/r --data c/b/notes.txt --steps 5 --quiet
mv c/a/r d
exits 0 mantissa train --resume d --steps 6 --quiet
