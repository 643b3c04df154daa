"""Times PyTorch training steps on the CPU, for the ratios in README.md beside this file.

Usage: python pytorch.py MODEL RECIPE [STEPS]
MODEL is gpt-tiny, gpt-mini or mlp; RECIPE is f32, bf16, f16 or compile. Prints the median milliseconds of a step.
The model, batch, optimizer and clipping are those of the presets in core/src/model.
"""

import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(self.ln_1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, c))
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, vocab, context, width, heads, layers):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)


def setup(name):
    if name == "mlp":
        sizes = [784, 1024, 1024, 10]
        layers = [m for i in range(3) for m in (nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU())][:-1]
        return nn.Sequential(*layers), torch.randn(256, 784), torch.randint(10, (256,))
    vocab, context, width, heads, layers, batch = {
        "gpt-tiny": (256, 128, 128, 4, 4, 16),
        "gpt-mini": (8192, 256, 384, 6, 6, 4),
    }[name]
    model = Gpt(vocab, context, width, heads, layers)
    return model, torch.randint(vocab, (batch, context)), torch.randint(vocab, (batch, context))


def main():
    name, recipe = sys.argv[1], sys.argv[2]
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 20
    torch.manual_seed(0)
    model, x, targets = setup(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    low = {"bf16": torch.bfloat16, "f16": torch.float16}.get(recipe)
    scaler = torch.amp.GradScaler("cpu", enabled=recipe == "f16")
    forward = torch.compile(model) if recipe == "compile" else model

    def step():
        with torch.autocast("cpu", dtype=low or torch.bfloat16, enabled=low is not None):
            logits = forward(x)
            loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    for _ in range(3):
        step()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e3)
    print(f"{name} {recipe}: median {sorted(times)[len(times) // 2]:.1f} ms over {steps} steps, {torch.get_num_threads()} threads")


main()
