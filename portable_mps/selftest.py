"""`portable-mps test`: operators, training and compiling on this adapter against the CPU, in about two minutes.

Rows of a name and a function of the device; what it returns is compared. `portable-mps doctor` asks whether the adapter
works at all; the tests of the repository ask about every operator.
"""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Check = Callable[[str], Any]
_HALVES = torch.float16, torch.bfloat16


def _random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _with_gradients(function: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> Check:
    """The result and the gradients of all tensors, for a gradient of 1 to n."""

    def check(device: str) -> Any:
        ours = [tensor.to(device).requires_grad_() for tensor in tensors]
        result = function(*ours)
        weights = torch.arange(1, result.numel() + 1, dtype=torch.float32).view(result.shape) / result.numel()
        result.backward(weights.to(device, result.dtype))
        return [result.detach(), *(tensor.grad for tensor in ours)]

    return check


def _pointwise(device: str) -> Any:
    x = _random(33, 65).to(device)
    positive = x.abs() + 0.1
    found = [torch.exp(x), torch.sin(x), torch.erf(x), torch.tanh(x), F.gelu(x), positive.log(), positive.rsqrt()]
    return [*found, torch.where(x > 0, x, -x), x.clamp(-1, 1), x.t() + x[0, :33], torch.pow(positive, 1.5)]


def _integers(device: str) -> Any:
    found = []
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        x = (torch.arange(200) % 50 + 1).to(device, dtype)
        found += [x * 3, x // 7, x % 5, x & 12, x << 1, (x > 20).sum(), x.to(torch.float32), x.cumsum(0)]
    return found


def _halves(device: str) -> Any:
    return [
        f(_random(64, 65, dtype=dtype).to(device)).float() for dtype in _HALVES for f in (torch.exp, F.silu, torch.sum)
    ]


def _reductions(device: str) -> Any:
    x = _random(7, 300, 5).to(device)
    found: list[Any] = [x.sum(1), x.mean((0, 2)), x.amax(1), x.argmin(1), x.std(1), x.prod(2), x.logsumexp(1)]
    return [*found, x.cumsum(1), (x > 2).any(1), torch.linalg.vector_norm(x, dim=1), x.median(1).values]


def _sorting(device: str) -> Any:
    x = (torch.arange(5000) * 7919 % 5003).float().view(5, 1000).to(device)
    values, places = x.sort(1)
    return [values, places, *x.topk(9, 1), (x[0] % 10).unique(), torch.bincount((x[1] % 10).long())]


def _indexing(device: str) -> Any:
    x, places = _random(40, 9).to(device), (torch.arange(120) * 17 % 40).to(device)
    added = torch.zeros(40, 9, device=device).index_add_(0, places, x[places])
    written = x.clone()
    written[places[:10], 2] = 5.0
    found = [x[places], x[x > 0], added, written, x.gather(0, places.view(-1, 1).expand(-1, 9)), x.nonzero()]
    return [*found, torch.cat([x, x.flip(1)], 1), x.roll(3, 0), x.unfold(0, 4, 3), torch.stack([x, x]).mean(0)]


def _products(device: str) -> Any:
    found = []
    for dtype in (torch.float32, *_HALVES):
        a, b = _random(100, 70, dtype=dtype).to(device) / 8, _random(70, 90, dtype=dtype, seed=1).to(device) / 8
        found += [
            (a @ b).float(),
            (b.t() @ a.t()).float(),
            (a @ b[:, 0]).float(),
            torch.addmm(b[:1, :90], a, b).float(),
        ]
    return [*found, torch.bmm(_random(3, 20, 30).to(device), _random(3, 30, 10).to(device))]


def _linear_algebra(device: str) -> Any:
    a = _random(40, 40)
    a = (a @ a.t() / 40 + torch.eye(40)).to(device)
    b = _random(40, 3, seed=1).to(device)
    return [
        torch.linalg.cholesky(a),
        torch.linalg.solve(a, b),
        torch.linalg.inv(a),
        torch.linalg.eigvalsh(a),
        torch.linalg.det(a),
    ]


def _fourier(device: str) -> Any:
    x = _random(6, 120).to(device)
    spectrum = torch.fft.rfft(x)
    return [spectrum.real, spectrum.imag, torch.fft.irfft(spectrum, 120), torch.fft.fft2(x).abs()]


def _random_numbers(device: str) -> Any:
    """Of a seed always the same, and distributed as asked for: not CUDA's or the CPU's."""
    torch.manual_seed(3)
    first = torch.randn(40000, device=device)
    torch.manual_seed(3)
    again = torch.randn(40000, device=device)
    dropped = F.dropout(torch.ones(40000, device=device), 0.25)
    near = [abs(first.mean().item()) < 0.03, abs(first.std().item() - 1) < 0.03, abs(dropped.mean().item() - 1) < 0.03]
    return torch.tensor([torch.equal(first, again), *near])


def _saving(device: str) -> Any:
    file = io.BytesIO()
    torch.save({"x": _random(5, 4).to(device).t()}, file)
    file.seek(0)
    return torch.load(file, map_location=device, weights_only=True)["x"]


def _trained(device: str, optimizer: Callable[..., torch.optim.Optimizer], compiled: bool = False) -> Any:
    """Losses of a small convolutional network with attention over a batch that stays the same."""
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(2)
    )
    head = nn.Sequential(
        nn.TransformerEncoderLayer(16, 4, 32, dropout=0, batch_first=True), nn.Flatten(), nn.Linear(128, 5)
    )
    model = nn.Sequential(features, head).to(device)
    step = torch.compile(model) if compiled else model
    x, y = _random(16, 1, 8, 8).to(device), (torch.arange(16) % 5).to(device)
    update, losses = optimizer(model.parameters()), []
    for _ in range(8):
        loss = F.cross_entropy(step(x), y)
        loss.backward()
        update.step()
        update.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses)


def _autocast(device: str) -> Any:
    with torch.autocast(device, dtype=torch.bfloat16):
        return F.linear(_random(9, 30).to(device), _random(8, 30, seed=1).to(device)).float()


_CONVOLUTIONS = (
    _with_gradients(
        lambda x, w: F.conv2d(x, w, stride=2, padding=1), _random(2, 6, 13, 11), _random(8, 6, 3, 3, seed=1)
    ),
    _with_gradients(lambda x, w: F.conv2d(x, w, groups=6), _random(2, 6, 9, 9), _random(6, 1, 3, 3, seed=1)),
    _with_gradients(lambda x, w: F.conv_transpose2d(x, w, stride=2), _random(2, 6, 5, 5), _random(6, 4, 3, 3, seed=1)),
)
_ATTENTIONS = tuple(
    _with_gradients(lambda q, k, v, causal=causal: F.scaled_dot_product_attention(q, k, v, is_causal=causal), *_heads)
    for causal in (False, True)
    for _heads in ([_random(2, 3, 37, 16, seed=seed) for seed in range(3)],)
)
_NORMS = (
    _with_gradients(lambda x, w: F.layer_norm(x, (50,), w), _random(20, 50), _random(50, seed=1)),
    _with_gradients(lambda x: F.group_norm(x, 3), _random(4, 6, 7, 5)),
    _with_gradients(lambda x: F.batch_norm(x, None, None, training=True), _random(8, 6, 7, 5)),
    _with_gradients(lambda x: F.softmax(x, 1), _random(30, 200)),
    _with_gradients(lambda x: F.cross_entropy(x, torch.arange(30, device=x.device) % 200), _random(30, 200)),
)
_LAYERS = (
    _with_gradients(lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), _random(2, 3, 7, 5)),
    _with_gradients(lambda x: F.adaptive_avg_pool2d(F.max_pool2d(x, 2), 3), _random(2, 3, 14, 13)),
    _with_gradients(lambda w: F.embedding(torch.arange(60, device=w.device).view(6, 10) % 7, w), _random(9, 12)),
)


def _all(checks: tuple[Check, ...]) -> Check:
    return lambda device: [check(device) for check in checks]


# The tolerance is relative to the largest element: half types round in other places.
CHECKS: tuple[tuple[str, Check, float], ...] = (
    ("pointwise", _pointwise, 1e-5),
    ("integers", _integers, 0),
    ("half types", _halves, 1e-2),
    ("reductions", _reductions, 1e-5),
    ("sorting", _sorting, 0),
    ("indexing", _indexing, 1e-6),
    ("products", _products, 1e-2),
    ("linear algebra", _linear_algebra, 1e-4),
    ("Fourier", _fourier, 1e-5),
    ("random numbers", _random_numbers, 0),
    ("convolution", _all(_CONVOLUTIONS), 1e-5),
    ("attention", _all(_ATTENTIONS), 1e-5),
    ("norms", _all(_NORMS), 1e-5),
    ("layers", _all(_LAYERS), 1e-5),
    ("autocast", _autocast, 1e-2),
    ("saving", _saving, 0),
    ("training, SGD", lambda d: _trained(d, lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)), 1e-3),
    ("training, AdamW", lambda d: _trained(d, lambda p: torch.optim.AdamW(p, 0.003)), 1e-3),
)
_COMPILED = "torch.compile", lambda d: _trained(d, lambda p: torch.optim.SGD(p, 0.05), compiled=d == "mps"), 1e-3


def _flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value for tensor in _flat(part)]


def difference(check: Check) -> float:
    """The largest between the device's results and the CPU's, by the largest element of each result; inf for NaN."""
    worst = 0.0
    for ours, expected in zip(_flat(check("mps")), _flat(check("cpu")), strict=True):
        if ours.shape != expected.shape or ours.dtype != expected.dtype:
            return float("inf")
        a, b = ours.cpu().double(), expected.double()
        error = ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() if b.numel() else 0.0
        worst = max(worst, error if error == error else float("inf"))
    return worst


def run() -> int:
    """Run every check and print a line each; 0 when all pass."""
    from portable_mps import doctor

    if doctor.run():
        return 1
    failed, start = 0, time.perf_counter()
    checks = list(CHECKS)
    if shutil.which("g++") or shutil.which("c++") or shutil.which("cl"):
        checks.append(_COMPILED)
    else:
        print("      torch.compile    left out: Inductor needs a C++ compiler here for its wrappers")
    for name, check, tolerance in checks:
        begin = time.perf_counter()
        try:
            found = difference(check)
        except Exception as error:  # one that fails must not hide the others
            failed += 1
            print(f"FAIL  {name}: {type(error).__name__}: {error}")
            continue
        verdict = "ok  " if found <= tolerance else "FAIL"
        failed += verdict == "FAIL"
        print(
            f"{verdict}  {name:<16} off by {found:.1e}, allowed {tolerance:g} ({time.perf_counter() - begin:.1f} s)",
            flush=True,
        )
    print(f"{len(checks) - failed} of {len(checks)} agree with the CPU, in {time.perf_counter() - start:.0f} s.")
    return 1 if failed else 0
