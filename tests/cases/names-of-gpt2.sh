# A GPT-2 whose tensors and config.json are written as other tools write them loads; what cannot load is named by its prefix or key.
export LC_ALL=C
mantissa train "${TINY[@]}" --recipe f32 --steps 1 --out run --quiet
mkdir hf
# Names are exchanged for others of the same length: JSON allows blanks behind a key.
fresh() { # SED: the weights of the run under other names
  cp run/checkpoints/step-00000001/{config.json,model.safetensors} hf/
  sed -i "$1" hf/model.safetensors
}
config() { # SED: an edited config.json
  cp run/checkpoints/step-00000001/config.json hf/
  sed -i "$1" hf/config.json
}
loads() {
  rm -rf trained
  exits 0 mantissa train --device cpu --init-from hf --recipe f32 --batch-size 1 --seq-len 8 --steps 1 --eval-batches 1 --out trained
  exits 0 mantissa sample --device cpu --run hf --tokens 1
}
refuses() { # TEXT ..
  exits 2 mantissa train --device cpu --init-from hf --recipe f32 --batch-size 1 --seq-len 8 --steps 1 --out none
  says err "$@"
  [ ! -e none ] || fail "a refused run left a folder"
}

fresh 's/"transformer\.wte\.weight"/"lm_head.weight"        /'
loads
for prefix in 'module.' 'model.' '_orig_mod.' ''; do
  blanks=$(printf '%*s' $((12 - ${#prefix})) '')
  fresh 's/"transformer\.\([^"]*\)"/"'"$prefix"'\1"'"$blanks"'/g'
  loads
done
fresh 's/"transformer\.\([^"]*\)"/"backbone.\1"   /g'
refuses 'found the prefix `backbone.`' 'transformer. _orig_mod.'
fresh 's/"transformer\.wpe\.weight"/"module.wpe.weight"     /'
refuses 'expected one prefix'
fresh 's/"transformer\.ln_f\.bias"/"x.\\u001b]0;title.weig"/'
refuses 'x.\u{1b}]0;title.weig'
! grep -q "$(printf '\033')" err || fail "a control character of a file reached stderr"

fresh ''
for entry in '"eos_token_id": [0, 10]' '"eos_token_id": -1' '"architectures": "GPT2LMHeadModel"' '"resid_pdrop": null' '"n_embd": 16.0' '"new": {}'; do
  key=${entry%%:*}
  config "/$key/d; s/^{/{ $entry,/"
  # An array of several lines is cut out whole.
  if [ "$key" = '"architectures"' ]; then config "/\"architectures\"/,/\]/d; s/^{/{ $entry,/"; fi
  # No comma before the end, where the last entry was taken out.
  sed -i ':a;N;$!ba;s/,\n}/\n}/' hf/config.json
  loads
done
config 's/"gelu_new"/"quick_gelu"/'
refuses 'activation_function: expected gelu_new, gelu, relu or silu, got "quick_gelu"'
config 's/"tie_word_embeddings": true/"tie_word_embeddings": false/'
refuses 'tie_word_embeddings: expected true, got false'

fresh ''
mv hf/model.safetensors hf/pytorch_model.bin
refuses 'pytorch_model.bin' 'safe_serialization=True'
