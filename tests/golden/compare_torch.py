"""Compares Mantissa with PyTorch on the same GPT-2: logits, gradients, weights after a few AdamW steps; and files in both directions.

    pip install torch transformers safetensors
    cargo build --release && python tests/golden/compare_torch.py target/release/mantissa

The model is made here with random weights and saved by transformers; `mantissa dump` trains it on random tokens, this script does the same in
PyTorch (f32, eager attention, no dropout, weight decay on tensors of rank 2 and more) and prints the worst difference of each kind, relative
to the largest magnitude of the tensor. A short `mantissa train` then writes a checkpoint, which transformers loads: its loss is compared with that
of `mantissa dump` on the same folder. Nothing is downloaded. Exit code 1 if a limit is passed.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

# Largest difference over the largest magnitude of the tensor. f32: sums in another order. The others round what they multiply, PyTorch here does
# not: their limits say that the recipe still computes the same thing.
LIMITS = {
    "f32": dict(logits=1e-4, loss=1e-5, grad=1e-4, losses=1e-4, grad_norms=1e-3),
    "tf32": dict(logits=1e-2, loss=1e-3, grad=5e-2, losses=1e-2, grad_norms=5e-2),
    "bf16": dict(logits=3e-2, loss=5e-3, grad=2e-1, losses=1e-2, grad_norms=5e-2),
    "f16": dict(logits=1e-2, loss=1e-3, grad=5e-2, losses=1e-2, grad_norms=5e-2),
}
# Of the way that a weight went. Adam divides by the root of the second moment: a gradient that is nearly zero moves its weight by a full step in
# a direction that rounding decides, so a few elements may differ; almost all may not.
AFTER_MEAN = {"f32": 1e-3, "tf32": 5e-2, "bf16": 2e-1, "f16": 5e-2}


def run(*args):
    result = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, args))}\n{result.stdout}{result.stderr}")
    return result.stdout


def relative(ours, theirs):
    scale = theirs.abs().max().clamp_min(1e-30)
    return ((ours - theirs).abs().max() / scale).item()


def torch_steps(model, tokens, flags):
    """The same steps in PyTorch: what `dump` writes, as a dictionary."""
    params = dict(model.named_parameters())
    decay = [p for p in params.values() if p.dim() >= 2]
    rest = [p for p in params.values() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": flags["weight-decay"]}, {"params": rest, "weight_decay": 0.0}]
    optim = torch.optim.AdamW(groups, lr=flags["lr"], betas=(flags["beta1"], flags["beta2"]), eps=1e-8)
    out, losses, norms = {}, [], []
    for step, batch in enumerate(tokens.long()):
        logits = model(batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optim.zero_grad()
        loss.backward()
        if step == 0:
            out["logits"], out["loss"] = logits.detach().clone(), loss.detach().clone()
            out.update({f"grad.{n}": p.grad.clone() for n, p in params.items()})
        limit = flags["grad-clip"] if flags["grad-clip"] > 0 else float("inf")
        norms.append(torch.nn.utils.clip_grad_norm_(params.values(), limit))
        losses.append(loss.detach())
        optim.step()
    out.update({f"after.{n}": p.detach().clone() for n, p in params.items()})
    out["losses"], out["grad_norms"] = torch.stack(losses), torch.stack(norms)
    return out


def compare(mantissa, recipe, folder, activation, prefix):
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=257, n_positions=48, n_embd=64, n_layer=3, n_head=4, activation_function=activation,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel._from_config(config, attn_implementation="eager").float()
    with torch.no_grad():
        # Biases and norms away from 0 and 1, so that a mix-up of any two shows.
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    (model if prefix else model.transformer).save_pretrained(folder / "hf")
    # Shorter than the context, as batches may be.
    tokens = torch.randint(0, 257, (5, 3, 33), dtype=torch.int16)
    save_file({"tokens": tokens}, folder / "batch.safetensors")
    flags = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "weight-decay": 0.1, "grad-clip": 1.0}
    options = [x for name, value in flags.items() for x in (f"--{name}", value)]
    out = folder / "out.safetensors"
    run(mantissa, "dump", "--model", folder / "hf", "--batch", folder / "batch.safetensors", "--recipe", recipe, *options, "--out", out)
    ours = load_file(out)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    theirs = torch_steps(model, tokens, flags)
    if set(ours) != set(theirs):
        sys.exit(f"names differ: {sorted(set(ours) ^ set(theirs))}")
    shapes = [n for n in ours if ours[n].shape != theirs[n].shape]
    if shapes:
        sys.exit(f"shapes differ: {shapes}")
    worst = {}
    for name in ours:
        kind = name.split(".")[0]
        if kind != "after":
            worst[kind] = max(worst.get(kind, (0.0, "")), (relative(ours[name], theirs[name]), name))
    # Mean difference of the updates over their mean size, over all weights.
    moved = sum((theirs[f"after.{n}"] - w).abs().sum() for n, w in before.items())
    apart = sum((theirs[f"after.{n}"] - ours[f"after.{n}"]).abs().sum() for n in before)
    largest = max((ours[f"after.{n}"] - theirs[f"after.{n}"]).abs().max().item() for n in before)
    ok = True
    for kind, limit in LIMITS[recipe].items():
        error, name = worst[kind]
        ok &= error <= limit
        print(f"  {kind:10} {error:.2e} (limit {limit:.0e})  {name}{'' if error <= limit else '  <-- too large'}")
    mean = (apart / moved).item()
    ok &= mean <= AFTER_MEAN[recipe]
    print(f"  after      {mean:.2e} of the way gone (limit {AFTER_MEAN[recipe]:.0e}), largest {largest:.2e} with lr {flags['lr']:.0e}")
    return ok


def checkpoint_loads(mantissa, folder):
    """A checkpoint of ours in transformers: same loss as ours on the same tokens."""
    sizes = ["--batch-size", 4, "--seq-len", 32, "--set", "train.model.layers=2", "--eval-batches", 1, "--sample-tokens", 0]
    run(mantissa, "train", "--recipe", "f32", "--steps", 10, *sizes, "--out", folder / "run")
    checkpoint = folder / "run" / "checkpoints" / "step-00000010"
    model, info = GPT2LMHeadModel.from_pretrained(checkpoint, output_loading_info=True)
    left = {k: v for k, v in info.items() if v}
    tokens = torch.randint(0, 256, (1, 4, 33), dtype=torch.uint8)
    save_file({"tokens": tokens}, folder / "bytes.safetensors")
    out = folder / "own.safetensors"
    run(mantissa, "dump", "--model", checkpoint, "--batch", folder / "bytes.safetensors", "--out", out)
    with torch.no_grad():
        logits = model.eval()(tokens[0, :, :-1].long()).logits
    error = relative(load_file(out)["logits"], logits)
    # And back: saved again by transformers, it is the same model for us.
    model.save_pretrained(folder / "again")
    again = folder / "again.safetensors"
    run(mantissa, "dump", "--model", folder / "again", "--batch", folder / "bytes.safetensors", "--out", again)
    same = all(torch.equal(a, b) for a, b in zip(load_file(out).values(), load_file(again).values()))
    print(f"  logits     {error:.2e} (limit 1e-04); missing or unexpected: {left or 'none'}; saved again, ours: {'equal' if same else 'DIFFER'}")
    return error <= 1e-4 and not left and same


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mantissa", type=pathlib.Path, help="the program")
    parser.add_argument("--recipes", default="f32,tf32,bf16,f16")
    args = parser.parse_args()
    torch.set_num_threads(2)
    ok = True
    mantissa = args.mantissa.resolve()
    cases = [(r, "gelu_new", True) for r in args.recipes.split(",")] + [("f32", "gelu", False)]
    for recipe, activation, prefix in cases:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{recipe}, {activation}, saved {'as GPT2LMHeadModel' if prefix else 'as GPT2Model, names without prefix'}")
            ok &= compare(mantissa, recipe, pathlib.Path(folder), activation, prefix)
    with tempfile.TemporaryDirectory() as folder:
        print("a checkpoint of ours in transformers")
        ok &= checkpoint_loads(mantissa, pathlib.Path(folder))
    sys.exit(0 if ok else "a limit was passed")


if __name__ == "__main__":
    main()
