"""Times greedy decoding of one sequence with a LLaMA of a billion parameters, on one device; compare.py sets two
side by side.

In bfloat16, over a static cache, eager or with `torch.compile(mode="reduce-overhead")`. Weights are random, and what is
timed does not depend on them. Needs transformers; nothing is downloaded.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from training import SEED, adapter, fell_back, synchronize

PROMPT, WARMUP = 32, 16  # tokens


def llama(device: str, layers: int, hidden: int) -> nn.Module:
    """Llama 3.2 1B as transformers builds it, or one of fewer and narrower layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 256,
        vocab_size=128256,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    config._attn_implementation = "sdpa"
    return LlamaForCausalLM(config).to(torch.bfloat16).to(device).eval()


@torch.no_grad()
def decode(model: nn.Module, device: str, tokens: int, length: int, compiles: bool) -> tuple[list[int], list[float]]:
    """The tokens, and the seconds of each of the first `WARMUP`, then those of one of the rest, in the mean."""
    from transformers import StaticCache

    cache = StaticCache(config=model.config, max_cache_len=length)
    prompt = torch.randint(model.config.vocab_size, (1, PROMPT)).to(device)

    def step(token: torch.Tensor, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(token, position_ids=position, past_key_values=cache).logits
        return logits[:, -1:].argmax(-1), position[:, -1:] + 1

    token, position = step(prompt, torch.arange(PROMPT, device=device)[None])
    if compiles:
        step = torch.compile(step, mode="reduce-overhead", dynamic=False)
    chosen, seconds = [token], []
    for count in (*[1] * WARMUP, tokens - WARMUP):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(count):
            token, position = (t.clone() for t in step(token, position))  # the graph's memory is the next step's
            chosen.append(token)
        synchronize(device)
        seconds.append((time.perf_counter() - start) / count)
    return torch.cat(chosen, 1)[0].tolist(), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["mps", "cuda", "cpu"], default="mps")
    parser.add_argument("--compile", action="store_true", help='with torch.compile(mode="reduce-overhead")')
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--cache", type=int, default=512, help="positions of the static cache")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--out", type=Path, help="JSON file to write: a list of one entry")
    options = parser.parse_args()
    if options.tokens <= WARMUP:
        parser.error(f"--tokens: more than the {WARMUP} of the warm-up")

    torch.manual_seed(SEED)
    model = llama(options.device, options.layers, options.hidden)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokens, seconds = decode(model, options.device, options.tokens, options.cache, options.compile)
    result: dict[str, Any] = {
        "model": f"llama, {sum(p.numel() for p in model.parameters()) / 1e9:.1f}B",
        "dtype": "bfloat16",
        "compiled": options.compile,
        "device": options.device,
        "adapter": adapter(options.device),
        "torch": torch.__version__,
        "median_step_s": seconds[-1],
        "seconds": seconds,
        "losses": [],
        "fallbacks": fell_back(caught),
        "tokens": tokens,
    }
    print(
        f"{result['model']} on {result['adapter']}: {1 / seconds[-1]:.1f} tokens/s, {seconds[-1] * 1e3:.2f} ms "
        f"a token; the first step took {seconds[0]:.1f} s"
    )
    if options.out:
        options.out.write_text(json.dumps([result], indent=1))


if __name__ == "__main__":
    main()
