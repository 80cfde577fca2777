"""Train a small GPT, byte by byte, on the text of Python's own help topics, then let it write.

Saves a checkpoint; --resume goes on from it, to --steps in all.
"""

import argparse
import math
import time
from pathlib import Path
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

VOCABULARY = 256  # bytes


class Block(nn.Module):
    """Pre-norm transformer block: causal attention, then a multilayer perceptron; (N, T, C) to (N, T, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        qkv = self.attention_in(self.attention_norm(x)).view(n, t, 3, self.heads, c // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(attended.transpose(1, 2).reshape(n, t, c))
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """(N, T) bytes, T at most `context`, to (N, T, 256) logits of the bytes that follow."""

    def __init__(self, layers: int, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.context = context
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.apply(self._initialise)
        self.head.weight = self.token.weight

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def load_text(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes to train on and, the last tenth, to validate on."""
    text = "\n".join(topics[name] for name in sorted(topics)).encode()
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long().to(device)
    return data.split([len(data) - len(data) // 10, len(data) // 10])


def sample_batch(data: torch.Tensor, batch: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random windows (batch, context), and the same windows one byte later."""
    starts = torch.randint(len(data) - context, (batch, 1), device=data.device)
    window = data[starts + torch.arange(context + 1, device=data.device)]
    return window[:, :-1], window[:, 1:]


def loss_of(model: GPT, inputs: torch.Tensor, targets: torch.Tensor, amp: bool) -> torch.Tensor:
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=amp):
        return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


@torch.no_grad()
def validation_loss(model: GPT, data: torch.Tensor, batch: int, amp: bool, batches: int = 8) -> float:
    """Mean over windows spread evenly over the validation text: the same ones every time."""
    model.eval()
    starts = torch.linspace(0, len(data) - model.context - 1, batch * batches, device=data.device).long()
    windows = data[starts.unsqueeze(1) + torch.arange(model.context + 1, device=data.device)]
    losses = [loss_of(model, window[:, :-1], window[:, 1:], amp) for window in windows.split(batch)]
    model.train()
    return torch.stack(losses).mean().item()


@torch.no_grad()
def generate(model: GPT, prompt: str, length: int, temperature: float = 0.8, top: int = 40) -> str:
    """`prompt` continued by `length` bytes, each drawn from the `top` most likely ones."""
    model.eval()
    device = model.head.weight.device
    tokens = torch.tensor([list(prompt.encode())], device=device)
    for _ in range(length):
        logits = model(tokens[:, -model.context :])[:, -1] / temperature
        values, candidates = logits.topk(top)
        choice = torch.multinomial(values.softmax(dim=-1), num_samples=1)
        tokens = torch.cat([tokens, candidates.gather(1, choice)], dim=1)
    return bytes(tokens[0].tolist()).decode(errors="replace")


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first twentieth, then a cosine down to a tenth of the peak."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.55 + 0.45 * math.cos(math.pi * done))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="mps")
    parser.add_argument("--steps", type=int, default=300, help="training steps in all")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--amp", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--checkpoint", type=Path, default=Path("gpt.pt"))
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument("--generate", type=int, default=200, help="bytes to write at the end")
    options = parser.parse_args()

    torch.manual_seed(0)
    training, validation = load_text(options.device)
    first = 0
    shape = {name: getattr(options, name) for name in ("layers", "width", "heads", "context")}
    if options.resume:
        saved = torch.load(options.checkpoint, map_location=options.device)
        shape, first = saved["shape"], saved["step"]
        torch.manual_seed(first)  # other windows of the text than from the start
    model = GPT(**shape).to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, betas=(0.9, 0.95), weight_decay=0.1)
    if options.resume:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        print(f"resumed at step {first} from {options.checkpoint}")

    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {len(training):,} bytes to train on")
    print(f"validation loss {validation_loss(model, validation, options.batch, options.amp):.3f} at step {first}")

    model.train()
    start = time.perf_counter()
    progress = tqdm(range(first, options.steps), unit="step", desc="training")
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.rate)
        loss = loss_of(model, *sample_batch(training, options.batch, model.context), options.amp)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 9 or step == options.steps - 1:
            progress.set_postfix(loss=f"{loss.item():.3f}")
    speed = (options.steps - first) * options.batch * model.context / (time.perf_counter() - start)

    torch.save(
        {
            "shape": shape,
            "step": options.steps,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        },
        options.checkpoint,
    )
    final = validation_loss(model, validation, options.batch, options.amp)
    print(f"validation loss {final:.3f} at step {options.steps}")
    print(f"speed {speed:.0f} bytes/s, checkpoint {options.checkpoint}")
    if options.generate:
        print("\n" + generate(model, "The ", options.generate))


if __name__ == "__main__":
    main()
