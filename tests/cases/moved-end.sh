# A resumed run with another number of steps says what happens to the learning rate.
exits 0 mantissa train "${TINY[@]}" --steps 100 --out r --quiet
exits 0 mantissa train --resume r --steps 200
says err "train.schedule.steps was 100, is 200" "lr goes from 1.00e-04 (step 100) to 6.20e-04 (step 101)"
# A run that has taken all its steps has no rate to come.
exits 0 mantissa train "${TINY[@]}" --steps 10 --out ended --quiet
exits 0 mantissa train --device cpu --resume ended
cat out err >all
says all "done already: 10 steps"
never_says all "learning rate follows"
