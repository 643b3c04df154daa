# Recording takes a time in proportion to the layers: 400 of them are planned in seconds, not in a third of a minute.
exits 0 timeout 10 "$MANTISSA" plan --gpu h100 --set train.model.layers=400
says out "memory (planned, exact)"
