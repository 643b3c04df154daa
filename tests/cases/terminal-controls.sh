# Control characters from files never reach a terminal: tensor names, logs, config keys, paths and samples stand there as text.
esc=$'\e' bel=$'\a' csi=$'\xc2\x9b'

# no_controls FILE: nothing in it that a terminal obeys.
no_controls() {
  ! LC_ALL=C grep -qP '[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]' "$1" || fail "control characters in $1: $(head -c 300 "$1" | cat -v)"
}

# Weights with a tensor that is named to set the title of the window.
exits 0 mantissa train "${TINY[@]}" --steps 1 --out small --quiet
mkdir weights
cp small/checkpoints/*/{config.json,model.safetensors} weights
name=transformer.h.0.attn.c_attn.weight hostile='\\u001b]0;owned\\u0007\\u009b2Jxxxxxx'
[ "${#name}" = $((${#hostile} - 3)) ] || fail "the header of the file must keep its length"
LC_ALL=C sed -i "s/$name/$hostile/" weights/model.safetensors
exits 2 mantissa sample --device cpu --run weights --tokens 1
no_controls err
says err '\u{1b}]0;owned\u{7}\u{9b}2J'

# A file name, a config key, a value and an argument.
exits 2 mantissa train --data "no${esc}]0;x${bel}file"
no_controls err
says err 'no\u{1b}]0;x\u{7}file'
exits 2 mantissa train --set "train.b${csi}2J=3"
no_controls err
exits 2 mantissa train --set "train.recipe.name=${esc}[31m"
no_controls err
exits 2 mantissa train --device "cpu${esc}[2J"
no_controls err

# The log of somebody else's run.
mkdir run
printf '%s\n' '{"step":1,"tensor":{"name":"x\u001b[2J\u009bH","dtype":"e4m3","amax":1.0,"scale":1.0,"underflow":0.5,"saturated":0.0,"nonfinite":0.0}}' >run/events.jsonl
exits 0 mantissa stats run
no_controls out
says out 'x\u{1b}[2J\u{9b}H'
exits 0 mantissa stats run --json
no_controls out
says out '\u009bH'

# A sample is what the model writes: to a file every byte of it, to a terminal text.
exits 0 mantissa train "${TINY[@]}" --steps 1 --out bytes --quiet
exits 0 mantissa sample --run bytes --tokens 600 --temperature 5 --device cpu
LC_ALL=C grep -qaP '[\x01-\x08\x0e-\x1f]' out || fail "expected raw bytes in a file"
command -v script >/dev/null || skip "no terminal: script(1) is missing"
script -qec "$MANTISSA sample --run bytes --tokens 600 --temperature 5 --device cpu" typescript >/dev/null
sed -e '1d;$d' typescript | tr -d '\r' >shown
no_controls shown
