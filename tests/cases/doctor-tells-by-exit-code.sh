# doctor ends with 0 whatever it finds; with --exit-code it ends with 1 if that is worse than a note. Data that is gone is said in the report.
exits 0 mantissa doctor --device cpu --batch-size 2 --seq-len 16 --steps 1 --recipe f32 --exit-code
says out healthy
printf 'some text that is long enough for a few rows of sixteen tokens, and then some more of it to be held out\n%.0s' 1 2 3 4 5 6 7 8 9 10 >notes.txt
exits 0 mantissa train "${TINY[@]}" --data notes.txt --steps 1 --out run --quiet
rm notes.txt
exits 0 mantissa doctor run
says out "observed  no steps" notes.txt "healthy   as far as the log and the checkpoint tell"
sed -i 's/"loss":[0-9.]*/"loss":null,"loss_nonfinite":true/; s/"found_inf":false/"found_inf":true/' run/events.jsonl
exits 0 mantissa doctor run
exits 1 mantissa doctor run --exit-code
