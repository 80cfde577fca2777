"""What the scripts share: the table of them, and a comparison with the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_flatten, tree_map


class Check(NamedTuple):
    """A script. library is the distribution's name, needs the other distributions that it imports."""

    library: str
    tried: str
    function: Callable[[], None]
    needs: tuple[str, ...]


CHECKS: dict[str, Check] = {}


def check(library: str, tried: str, *needs: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Decorator: the function tries `library` and raises where something is wrong."""

    def decorate(function: Callable[[], None]) -> Callable[[], None]:
        CHECKS[library] = Check(library, tried, function, needs)
        return function

    return decorate


def moved(value: Any, device: str = "mps") -> Any:
    return tree_map(lambda v: v.to(device) if isinstance(v, torch.Tensor) else v, value)


def close(mine: Any, theirs: Any, limit: float = 1e-3) -> None:
    """The tensors and numbers of two nests, the first of the device, agree relative to each tensor's largest value."""
    for have, want in zip(tree_flatten(mine)[0], tree_flatten(theirs)[0], strict=True):
        if isinstance(want, torch.Tensor):
            assert have.is_mps, f"the result is on {have.device}"
            have, want = have.detach().cpu(), want.detach()
            assert have.shape == want.shape and have.dtype == want.dtype
            if want.is_floating_point():
                scale = float(want.abs().max()) if want.numel() else 1.0
                torch.testing.assert_close(have, want, rtol=0, atol=limit * max(scale, 1e-6))
            else:
                assert torch.equal(have, want)
        elif isinstance(want, float):
            assert abs(have - want) <= limit * max(abs(want), 1e-6), f"{have} where the CPU has {want}"
        else:
            assert have == want


def trains(
    model: torch.nn.Module,
    batch: tuple[Any, ...],
    loss: Callable[[Any], torch.Tensor] | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    steps: int = 3,
    limit: float = 2e-3,
) -> None:
    """The losses of a few steps from the same weights agree with the CPU's. loss is of the model's output."""
    loss = loss or (lambda output: output.float().square().mean())
    histories = []
    for device in ("mps", "cpu"):
        each = copy.deepcopy(model).to(device).train()
        stepper = optimizer(each.parameters(), lr=1e-2)
        history = []
        for _ in range(steps):
            torch.manual_seed(0)
            value = loss(each(*moved(batch, device)))
            stepper.zero_grad()
            value.backward()
            stepper.step()
            history.append(float(value))
        histories.append(history)
    close(*histories, limit)


def faint(model: torch.nn.Module) -> torch.nn.Module:
    """Its dropout and stochastic depth at a probability of 1e-9: their path is taken, while nothing falls out.

    Each device draws random numbers of its own, so that others would fall out on each.
    """
    for module in model.modules():
        if "Drop" in type(module).__name__ or type(module).__name__ == "StochasticDepth":
            for key in ("p", "drop_prob"):
                if hasattr(module, key):
                    setattr(module, key, 1e-9)
    return model


def runs(function: Callable[..., Any], *arguments: Any, limit: float = 1e-3) -> None:
    """A function of tensors gives on the device what it gives on the CPU."""
    close(function(*moved(arguments)), function(*arguments), limit)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
