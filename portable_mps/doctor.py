"""`portable-mps doctor`: a small self-test of the adapter, with what to do about each failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import portable_mps

_DRIVER = "Update the GPU's Vulkan driver, or choose another adapter with PORTABLE_MPS_ADAPTER (see portable-mps info)."
_REPORT = "Please report it with this output and that of `portable-mps info`."


class Failure(Exception):
    """A check that failed: what was seen, and what the user can do."""

    def __init__(self, seen: str, remedy: str) -> None:
        super().__init__(seen)
        self.remedy = remedy


@dataclass
class Outcome:
    """What came of a check: `detail` is what it measured, or what went wrong, and then `remedy` what can be done."""

    name: str
    passed: bool
    detail: str
    seconds: float
    remedy: str = ""

    def __str__(self) -> str:
        if self.passed:
            return f"ok    {self.name:<16} {self.detail} ({self.seconds:.2f} s)"
        return f"FAIL  {self.name}: {self.detail}\n      {self.remedy}"


def run(page: Path | None = None) -> int:
    """Run the checks in order and print each; 0 when all pass. Stops at the first that later ones depend on.

    page: a file that gets the outcomes, in Markdown, with what is left for a person to fill in.
    """
    outcomes = []
    for name, check, essential in _CHECKS:
        outcomes.append(_outcome(name, check))
        print(outcomes[-1])
        if essential and not outcomes[-1].passed:
            print("The other checks need this one.")
            break
    else:
        failed = sum(not each.passed for each in outcomes)
        print("All is well." if failed == 0 else f"{failed} of {len(_CHECKS)} checks failed.")
    if page is not None:
        from portable_mps import doctor_page

        page.write_text(doctor_page.text(outcomes), encoding="utf-8")
        print(f"The page to fill in is {page}.")
    return 0 if all(each.passed for each in outcomes) else 1


def _outcome(name: str, check: Callable[[], str]) -> Outcome:
    start = time.perf_counter()
    try:
        detail, passed, remedy = check(), True, ""
    except Failure as error:
        detail, passed, remedy = str(error), False, error.remedy
    except Exception as error:  # whatever goes wrong is what this command is for
        detail, passed, remedy = f"{type(error).__name__}: {error}", False, f"{_DRIVER} {_REPORT}"
    return Outcome(name, passed, detail, time.perf_counter() - start, remedy)


def _active() -> str:
    import torch

    reason = portable_mps.inactive_reason
    if reason is not None:
        remedy = "Set PORTABLE_MPS=1, and check that `import torch` works by itself."
        raise Failure(
            f"mps is not ours: {reason}.", portable_mps.WITHOUT_MPS if torch.backends.mps.is_built() else remedy
        )
    return f"torch {torch.__version__}"


def _adapter() -> str:
    from portable_mps.runtime import adapter

    try:
        chosen = adapter.choose()
    except adapter.NoAdapterError as error:
        raise Failure(str(error), "Then run this again.") from error
    if chosen.missing:
        raise Failure(f"{chosen.name} lacks {', '.join(chosen.missing)}.", _DRIVER)
    return f"{chosen.name}, {chosen.driver}"


def _cache() -> str:
    from portable_mps import settings
    from portable_mps.runtime import cache

    folder = settings.cache_folder()
    try:
        cache.check(folder)
    except OSError as error:
        raise Failure(f"the cache folder {folder} cannot be written ({error}).", "Set PORTABLE_MPS_CACHE.") from error
    return str(folder)


def _open() -> str:
    from portable_mps.runtime import device

    return f"{device.current().adapter.memory / 2**30:.1f} GiB"


def _expect(seen: Any, wanted: Any, what: str, tolerance: float = 0.0) -> None:
    import torch

    seen, wanted = torch.as_tensor(seen).double(), torch.as_tensor(wanted).double()
    error = (seen - wanted).abs().max().item() if seen.shape == wanted.shape else float("nan")
    if not error <= tolerance:
        raise Failure(
            f"{what} is wrong: the largest error is {error:g}, allowed is {tolerance:g}.", f"{_DRIVER} {_REPORT}"
        )


def _copies() -> str:
    import torch

    data = torch.arange(1 << 20, dtype=torch.int32)
    _expect(data.to("mps").cpu(), data, "a copy of 4 MiB to the device and back")
    _expect(data.to("mps")[::3].flip(0).cpu(), data[::3].flip(0), "a strided copy")
    return "4 MiB there and back"


def _arithmetic() -> str:
    import torch

    from portable_mps.runtime import device

    features = device.current().adapter.features
    dtypes = [torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.int64, torch.uint8]
    dtypes += [torch.float64] if features["float64"] else []
    for dtype in dtypes:
        x = (torch.arange(1000) % 11 + 1).to(dtype)
        y = x.to("mps")
        _expect((y * y + y).cpu(), x * x + x, f"arithmetic of {dtype}")
    x = torch.linspace(-20, 20, 1001)
    _expect(torch.exp(x.to("mps")).cpu().log(), x, "exp", 1e-4)
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def _reductions() -> str:
    import torch

    x = torch.arange(1 << 16, dtype=torch.float32) % 7
    _expect(x.to("mps").sum().cpu(), x.sum(), "a sum")
    _expect(x.view(256, 256).to("mps").amax(0).cpu(), x.view(256, 256).amax(0), "a maximum")
    return "sum, maximum"


def _matmul() -> str:
    import torch

    generator = torch.Generator().manual_seed(0)
    for dtype, tolerance in ((torch.float32, 1e-3), (torch.float16, 0.25), (torch.bfloat16, 2.0)):
        a, b = (torch.randn(192, 192, generator=generator).to(dtype) for _ in range(2))
        _expect((a.to("mps") @ b.to("mps")).cpu(), a.double() @ b.double(), f"a matrix product of {dtype}", tolerance)
    return "float32, float16, bfloat16"


def _training() -> str:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1)).to("mps")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x = torch.randn(64, 8, device="mps")
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if not losses[-1] < 0.9 * losses[0]:
        raise Failure(f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f} in 20 steps.", _REPORT)
    return f"loss {losses[0]:.2f} -> {losses[-1]:.2f}"


_CHECKS: list[tuple[str, Callable[[], str], bool]] = [
    # name, check, whether the following ones depend on it
    ("torch and mps", _active, True),
    ("adapter", _adapter, True),
    ("cache folder", _cache, True),
    ("device", _open, True),
    ("copies", _copies, True),
    ("arithmetic", _arithmetic, False),
    ("reductions", _reductions, False),
    ("matrix products", _matmul, False),
    ("training", _training, False),
]
