"""What products, convolutions and attention would launch on a card: their tiles are chosen by its limits.

`python -m vendors.dry ADAPTER FOLDER` runs them on the software driver, which is told that it is the card
(scripts/dry.py). The texts go to FOLDER, as PORTABLE_MPS_COLLECT writes them; results are garbage.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def _products() -> Iterator[tuple[str, Callable[[], Any]]]:
    import torch

    def make(m: int, n: int, k: int, dtype: Any, left: bool, right: bool, batch: int) -> Any:
        lead = (batch,) if batch > 1 else ()
        a = torch.empty(*lead, *((k, m) if left else (m, k)), dtype=dtype, device="mps")
        b = torch.empty(*lead, *((n, k) if right else (k, n)), dtype=dtype, device="mps")
        return (a.mT if left else a) @ (b.mT if right else b)

    shapes = (
        *((size, size, size, 1) for size in (4096, 1024, 256)),
        (2048, 3072, 768, 1),
        (1, 4096, 4096, 1),
        (128, 64, 128, 96),
    )
    ways = (("", False, False), (", A @ B^T", False, True), (", A^T @ B", True, False))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        # Two bytes are two bytes: bfloat16 takes float16's tiles, or float32's.
        for m, n, k, batch in shapes[: 1 if dtype == torch.bfloat16 else None]:
            for words, left, right in ways:
                name = f"{_short(dtype)} {f'{batch}x' if batch > 1 else ''}{m}x{n}x{k}{words}"
                yield name, functools.partial(make, m, n, k, dtype, left, right, batch)


def _layers() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Linear layers and convolutions, forward and backward."""
    import torch
    import torch.nn.functional as F

    def run(function: Callable[..., Any], *shapes: tuple[int, ...], dtype: Any) -> None:
        leaves = [torch.empty(shape, dtype=dtype, device="mps", requires_grad=True) for shape in shapes]
        output = function(*leaves)
        torch.autograd.grad(output, leaves, torch.empty_like(output))

    for dtype in (torch.float32, torch.float16):
        short = _short(dtype)
        for rows, outputs, inputs in ((2048, 3072, 768), (64, 1000, 512)):
            shapes = ((rows, inputs), (outputs, inputs), (outputs,))
            yield f"{short} linear {rows}x{outputs}x{inputs}", functools.partial(run, F.linear, *shapes, dtype=dtype)
        for words, batch, channels, size, outputs, side, more in (
            ("k3", 16, 256, 14, 256, 3, {"padding": 1}),
            ("k3", 16, 64, 56, 64, 3, {"padding": 1}),
            ("k1", 16, 64, 56, 256, 1, {}),
            ("k3, stride 2", 16, 128, 56, 128, 3, {"padding": 1, "stride": 2}),
            ("k7, stride 2", 16, 3, 224, 64, 7, {"padding": 3, "stride": 2}),
            ("k3, depthwise", 16, 256, 56, 256, 3, {"padding": 1, "groups": 256}),
        ):
            weight = (outputs, channels // more.get("groups", 1), side, side)
            function = functools.partial(F.conv2d, **more)
            name = f"{short} convolution {batch}x{channels}x{size}x{size} {words}"
            yield name, functools.partial(run, function, (batch, channels, size, size), weight, dtype=dtype)


def _attentions() -> Iterator[tuple[str, Callable[[], Any]]]:
    import torch
    import torch.nn.functional as F

    def run(queries: int, keys: int, width: int, mask: str, dtype: Any) -> None:
        q = torch.empty(2, 4, queries, width, dtype=dtype, device="mps", requires_grad=True)
        k, v = (torch.empty(2, 4, keys, width, dtype=dtype, device="mps", requires_grad=True) for _ in range(2))
        bias = torch.empty(queries, keys, dtype=dtype, device="mps") if mask == "float mask" else None
        output = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=mask == "causal")
        torch.autograd.grad(output, (q, k, v), torch.empty_like(output))

    for dtype in (torch.float32, torch.float16):
        for width in (32, 64, 128, 256):
            for queries, keys, mask in (
                (1024, 1024, ""),
                (16, 1024, ""),
                *(((1024, 1024, "causal"), (1024, 1024, "float mask"), (1, 4096, "")) if width == 64 else ()),
            ):
                name = f"{_short(dtype)} attention {queries} on {keys}, {width} wide{', ' * bool(mask)}{mask}"
                yield name, functools.partial(run, queries, keys, width, mask, dtype)


def _short(dtype: Any) -> str:
    return {"torch.float32": "f32", "torch.float16": "f16", "torch.bfloat16": "bf16"}[str(dtype)]


def collect(adapter: Any) -> dict[str, list[str]]:
    """By the key of a kernel, the case that first launches it."""
    import torch
    from dry import pretend

    found: dict[str, list[str]] = {}
    running = ""
    pretend(
        lambda real: dataclasses.replace(adapter, handle=real.handle, memory=real.memory, timestamp_period_ns=1.0),
        lambda key: found.setdefault(key, []).append(running),
    )
    for cases in (_products, _layers, _attentions):
        for running, call in cases():  # noqa: B007  the kernels' keys are kept under it
            call()
            torch.mps.synchronize()
    return found


def main() -> None:
    adapter, folder = pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])
    os.environ["PORTABLE_MPS_COLLECT"] = str(folder)
    (folder / "cases.json").write_text(json.dumps(collect(adapter), indent=0))
    os._exit(0)  # what the kernels left is nothing that a process could end on


if __name__ == "__main__":
    main()
