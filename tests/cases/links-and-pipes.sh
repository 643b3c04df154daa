# Links to folders are followed once, what is left out is counted by reason, and no reader waits for a pipe or reads a device.
[ "$(uname)" = Linux ] || skip "pipes and links as Linux has them"
train() { timeout 60 "$MANTISSA" train "${TINY[@]}" --steps 1 "$@"; }
mkdir -p some/texts d
for _ in $(seq 100); do echo linked; done >some/texts/1.txt
for _ in $(seq 100); do echo hello; done >d/a.txt
ln -s "$PWD/some/texts" d/more
ln -s .. d/loop
ln -s /nonexistent d/gone.txt
mkfifo d/pipe.txt
exits 0 train --data d --out a
says out "(2 text files): 1,300 bytes"
says err "1 linked to a folder that holds it (d/loop)" "1 no file but a pipe (FIFO) (d/pipe.txt)" "1 unreadable or linked to nothing (d/gone.txt)"
mkdir one
ln -s ../some/texts one/more
exits 0 train --data one --out b
says out "(1 text file): 700 bytes"

exits 2 train --data d/pipe.txt --out c
says err "found a pipe (FIFO): d/pipe.txt"
exits 2 train --data d/a.txt --tokenizer d/pipe.txt --out c
says err "found a pipe (FIFO)"
exits 2 train --config d/pipe.txt --out c
says err "found a pipe (FIFO)"
exits 2 timeout 60 "$MANTISSA" sample --run a --prompt-file /dev/zero
says err "cannot read the prompt: /dev/zero" "found a device"
exits 2 timeout 60 "$MANTISSA" sample --run a --prompt-file d/pipe.txt
says err "found a pipe (FIFO)"
