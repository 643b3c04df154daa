# Numbers are spelled in --set as in flags.
for text in .001 1. 1.e-3; do
  exits 0 mantissa train --print-config --lr "$text"
  mv out flag
  exits 0 mantissa train --print-config --set "train.schedule.lr=$text"
  [ "$(grep '^lr = ' out)" = "$(grep '^lr = ' flag)" ] || fail "expected the rate of --lr $text, got $(grep '^lr = ' out)"
done
# What is wrong with a long line is told in a few words.
{ printf 'a = "'; head -c 200000 /dev/zero | tr '\0' x; printf '" b\n'; } >long.toml
exits 2 mantissa train --config long.toml
[ "$(wc -c <err)" -lt 1000 ] || fail "expected a short message, got $(wc -c <err) bytes"
says err "line 1, column"
