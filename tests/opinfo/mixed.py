"""The check `mixed`: a tensor of the CPU beside the device's is taken exactly where torch takes one beside CUDA's.

Without CUDA at hand the rule is torch's own list: native_functions.yaml says which functions have all their tensors
checked to be on one device, and which leave it to TensorIterator, which takes 0-d tensors of the CPU. What an entry of
the database calls, fake tensors show.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from opinfo import both, compare, samples
from opinfo.both import Problems, Sample

# Where the list says TensorIterator, but CUDA's kernels refuse a 0-d tensor of the CPU (seen with torch 2.11 on an
# H100), or some of them: either is right.
_UNSURE = {"addcdiv", "addcmul", "lerp", "logical_and", "logical_or", "logical_xor", "masked_fill", "masked_fill_"}
_UNSURE |= {"index_fill", "index_fill_", "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse_loss"}
_UNSURE |= {"smooth_l1_loss"}

# These move what is on the CPU: indices of indexing; a copy is between any devices.
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_COPIES = {"copy", "copy_", "_to_copy", "_copy_from", "set_", "resize_as_", "_reshape_alias"}
# Copies into a part of a tensor; targets of connectionist temporal classification follow the scores.
_COPIES |= {"select_scatter", "slice_scatter", "diagonal_scatter", "as_strided_scatter", "_ctc_loss"}


class _Refused(Exception):
    """A function checks its tensors to be on one device, and they are not."""


@torch.no_grad()
def mixed(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    """One of the tensors on the CPU, as it is and as a 0-d tensor, the others on the device.

    Where CUDA takes it, the result is the CPU's; where CUDA refuses a tensor with dimensions, a RuntimeError speaks of
    devices. Elsewhere either is right.
    """
    tensors = both.tensors(sample)
    if len(tensors) < 2 or op.name in samples.HOST_ARGUMENTS or any(t.layout != torch.strided for t in tensors):
        return
    for number, tensor in enumerate(tensors):
        for name, variant, host in _variants(sample, tensor):
            expected, refusal = both.attempt(lambda v=variant: samples.call(op, op, v, "cpu"))
            if refusal is None:
                problem = _judged(op, dtype, variant, host, expected)
                yield both.named(f"tensor {number} {name} on the CPU", problem)


def _variants(sample: Sample, tensor: torch.Tensor) -> Iterator[tuple[str, Sample, torch.Tensor]]:
    if tensor.dim():
        yield "as it is", sample, tensor
    if tensor.numel():
        scalar = tensor.detach().flatten()[0].clone()
        yield "as 0-d", both.with_tensor(sample, tensor, scalar), scalar


def _judged(op: Any, dtype: torch.dtype, sample: Sample, host: torch.Tensor, expected: Any) -> Exception | None:
    permitted, on_device = _rule(op, sample, host)
    with samples.on_host(host):
        actual, error = both.attempt(lambda: samples.call(op, op, sample, "mps"))
    if error is not None:
        if permitted is True or not isinstance(error, RuntimeError) or isinstance(error, NotImplementedError):
            return error
        if not re.search(r"device|mps|cpu", str(error), re.IGNORECASE):
            return AssertionError(f"no word of devices in {str(error).partition(chr(10))[0]!r}")
        return None
    if permitted is False and host.dim():
        return AssertionError("nothing was raised instead of RuntimeError")

    def moved(result: Any) -> Any:
        return result.to("mps") if isinstance(result, torch.Tensor) and not on_device else result

    def check() -> None:
        compare.assert_agree(
            both.processed(op, sample, pytree.tree_map(moved, actual)),
            both.processed(op, sample, expected),
            compare.tolerance(op, dtype),
            again=lambda state: both.processed(op, sample, both.reseeded(op, op, sample, state)),
            reference=lambda: both.processed(op, sample, samples.call(op, op, both.exact(sample), "cpu")),
            values=compare.promises_values(op),
        )

    return both.attempt(check)[1]


def _rule(op: Any, sample: Sample, host: torch.Tensor) -> tuple[bool | None, bool]:
    """Whether CUDA takes the tensor `host` on the CPU beside the others, None where that is not known; and whether
    all results are then on the device."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)

    def faked(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return "mps" if leaf == "cpu" else torch.device("mps") if leaf == torch.device("cpu") else leaf
        with fake:
            device = "cpu" if leaf is host else "mps"
            return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=device)

    other = both.mapped(sample, faked)
    checks = _DeviceChecks()
    try:
        with fake, checks:
            result = op(other.input, *other.args, **other.kwargs)
    except _Refused:
        return False, True
    except Exception:  # a fake tensor has no values to look at, say
        return None, False
    devices = {t.device.type for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor)}
    return None if checks.is_unsure else True, devices == {"mps"} and not checks.is_unsure


class _DeviceChecks(TorchDispatchMode):
    """Refuses what CUDA's dispatch would; is_unsure where the list does not say."""

    def __init__(self) -> None:
        super().__init__()
        self.is_unsure = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if len({t.device.type for t in tensors}) > 1:
            self._check(func._schema, args, tensors)
        return func(*args, **kwargs)

    def _check(self, schema: Any, args: Any, tensors: list[torch.Tensor]) -> None:
        name = schema.name.removeprefix("aten::")
        if name in _COPIES:
            return
        if name in _INDEXED:
            self._check_indexed(args)
            return
        checked = _checked().get(name + (f".{schema.overload_name}" if schema.overload_name else ""))
        if checked in (None, "composed") or name in _UNSURE:
            self.is_unsure = True
            return
        written = [
            value
            for argument, value in zip(schema.arguments, args, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, torch.Tensor)
        ]
        if checked == "same" or any(t.device.type == "cpu" for t in written):
            raise _Refused
        if any(t.device.type == "cpu" and t.dim() for t in tensors):
            raise _Refused

    def _check_indexed(self, args: Any) -> None:
        """What is indexed is on the device, with a value put there unless it is 0-d; indices may be anywhere."""
        into, values = args[0], args[2] if len(args) > 2 and isinstance(args[2], torch.Tensor) else None
        if into.device.type == "cpu":
            raise _Refused
        if values is not None and values.device.type == "cpu" and values.dim():
            raise _Refused


@functools.cache
def _checked() -> dict[str, str]:
    """By function: "same" where its tensors are checked, "scalars" where TensorIterator does, "composed" where none."""
    text = (importlib.resources.files("torchgen") / "packaged/ATen/native/native_functions.yaml").read_text()
    rules = {}
    for entry in re.split(r"^- func: ", text, flags=re.MULTILINE)[1:]:
        if "device_check: NoCheck" in entry:
            rule = "scalars"
        elif re.search(r"^\s+(structured_delegate|.*\bCUDA\b.*):", entry, re.MULTILINE):
            rule = "same"
        else:
            rule = "composed"
        rules[entry.partition("(")[0]] = rule
    return rules
