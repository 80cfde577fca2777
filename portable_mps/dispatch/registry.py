"""Registration of operators with torch's dispatcher: the only caller of torch.library.

Elementwise rows are registered by C++ (csrc/pointwise.cpp) and noted here. `import torch` waits for none of them: all
are registered when the first tensor is allocated, but for those that can be called before (dispatch/first.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from portable_mps import _C

Function = TypeVar("Function", bound=Callable[..., Any])

_library = torch.library.Library("aten", "IMPL", "MPS")
_autograd_library = torch.library.Library("aten", "IMPL", "AutogradMPS")
_fallback_library = torch.library.Library("_", "IMPL", "MPS")
_own_library = torch.library.Library("portable_mps", "FRAGMENT")
_others: dict[tuple[str, str], torch.library.Library] = {}
registered: dict[str, Any] = {}
"""What implements each operator, a function or a row, by its ATen name with overload."""


def reserve(name: str, implementation: Any) -> bool:
    """Note that ATen operator `name` ("add.out") has this implementation. Raises for a second one.

    Whether to register it: a kernel that a script has registered before its first tensor stays.
    """
    if name in registered:
        raise RuntimeError(f"aten::{name} is registered twice")
    registered[name] = implementation
    operator = f"aten::{name}"  # which some release of torch may lack: 2.14 has no cholesky
    known = torch._C._dispatch_has_kernel(operator)
    return not (known and torch._C._dispatch_has_kernel_for_dispatch_key(operator, "MPS"))


def register(name: str, function: Callable[..., Any]) -> None:
    """Make `function` the `mps` kernel of ATen operator `name`. Raises for a second registration."""
    if not reserve(name, function):
        return
    if name in REPLAYED:
        _C.implement_replayed(name, function)
    else:
        _C.implement_kernel("", name, _untraced(function) if name in _RECORDED_BY_HAND else function)


# What these dispatch follows from their arguments' metadata alone: repeated calls need no Python (csrc/replay.h).
# Each stands for a call that training or inference makes often.
REPLAYED = {
    *("mm.out", "bmm.out", "addmm.out", "baddbmm.out", "addmv.out", "dot", "_addmm_activation.out"),
    *("convolution", "convolution_backward"),
    *("_scaled_dot_product_fused_attention_overrideable", "_scaled_dot_product_fused_attention_overrideable_backward"),
    *("sum.IntList_out", "mean.out", "amax.out", "argmax.out", "max.dim_max", "min.dim_min", "cumsum.out"),
    *("var.correction", "var_mean.correction", "std.correction", "linalg_vector_norm.out", "norm.out"),
    *("_softmax.out", "_softmax_backward_data.out", "_log_softmax.out", "_log_softmax_backward_data.out"),
    *("native_layer_norm", "native_layer_norm_backward", "_fused_rms_norm", "_fused_rms_norm_backward"),
    *("native_batch_norm", "native_batch_norm_backward", "native_group_norm", "native_group_norm_backward"),
    *("cat.out", "flip", "copy_", "zero_", "fill_.Scalar", "masked_fill_.Scalar"),
    *("gelu.out", "gelu_backward.grad_input"),
    *("native_dropout", "uniform_", "normal_", "bernoulli_.float"),
    *("index_select", "index_select.out", "gather.out", "index.Tensor", "embedding_dense_backward", "topk.values"),
    *("nll_loss_forward.output", "nll_loss_backward.grad_input"),
    *("max_pool2d_with_indices.out", "max_pool2d_with_indices_backward.grad_input"),
    *("avg_pool2d.out", "avg_pool2d_backward.grad_input", "adaptive_avg_pool2d.out"),
}

# torch.jit.trace leaves its recording on inside these: sizes would be tensors there, and our steps part of the graph.
_RECORDED_BY_HAND = {"_local_scalar_dense", "equal"}


def _untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        state: Any = torch._C._get_tracing_state()
        if state is None:
            return function(*args, **kwargs)
        torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
        try:
            return function(*args, **kwargs)
        finally:
            torch._C._set_tracing_state(state)  # type: ignore[attr-defined]

    return call


def _beneath_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """As csrc/functionality.cpp does: autocast had the operator's arguments, and must not cast what the kernel is made
    of. A matrix exponential of float32 would be one of bfloat16."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_autocast_enabled("mps"):
            return function(*args, **kwargs)
        with torch._C._DisableAutocast():
            return function(*args, **kwargs)

    return call


def register_composite(name: str, function: Callable[..., Any]) -> None:
    """Replace a composite operator: `function` calls differentiable operators, so it serves above autograd too.

    Fake tensors come by there before there is a tensor of ours: what is replaced belongs into first.COMPOSITES.
    """
    if name in _composites:
        reserve(name, function)
    elif reserve(name, function):
        _library.impl(name, function)
        _autograd_library.impl(name, function)


def is_plain(*tensors: torch.Tensor) -> bool:
    """Whether nothing but autograd looks on at a composite operator, which a torch.autograd.Function may then stand
    for: tensors of ours of one dtype, no transform, no forward-mode gradient, no trace."""
    if torch._C._get_tracing_state() is not None or torch.autograd.forward_ad._current_level >= 0:
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    kinds = (torch.Tensor, torch.nn.Parameter)
    return all(type(t) in kinds and t.is_mps and t.dtype == tensors[0].dtype and t.numel() > 0 for t in tensors)


_composites: set[str] = set()


def register_composite_first(name: str) -> None:
    """Register what calls the function that `register_composite` will be given for this operator."""
    _composites.add(name)
    function = once_loaded(lambda: registered[name])
    _library.impl(name, function)
    _autograd_library.impl(name, function)


def register_first(name: str) -> None:
    """Register what calls the function that `register` will be given for this operator."""
    _library.impl(name, _beneath_autocast(once_loaded(lambda: registered[name])))


def register_fallback(function: Callable[..., Any]) -> None:
    """Have `function` called with each operator that has no kernel, and its arguments."""
    _fallback_library.fallback(_beneath_autocast(function))


def once_loaded(find: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    """What has all operators registered, then calls the function that `find` returns."""

    def call(*args: Any, **kwargs: Any) -> Any:
        import portable_mps.ops  # noqa: F401

        return find()(*args, **kwargs)

    return call


def implements(*names: str) -> Callable[[Function], Function]:
    """Decorator: the function is the `mps` kernel of these operators; it takes their schema's arguments."""

    def decorate(function: Function) -> Function:
        for name in names:
            register(name, function)
        return function

    return decorate


def define(schema: str, without_memory: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make the decorated function an operator of our own, torch.ops.portable_mps.*.

    without_memory: the same for tensors without memory.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        name = schema.partition("(")[0]
        _own_library.define(schema)
        _own_library.impl(name, _beneath_autocast(function), "MPS")
        _own_library.impl(name, without_memory, "Meta")
        return function

    return decorate


def register_for(library: str, name: str, function: Callable[..., Any], key: str = "MPS") -> None:
    """Make `function` the kernel of an operator that another library defines ("torchvision", "nms") for a dispatch key.

    The library must have been imported. RuntimeError for an operator it does not define.
    """
    torch._C._get_schema(f"{library}::{name}", "")
    if (library, key) not in _others:
        _others[library, key] = torch.library.Library(library, "IMPL", key)
    _others[library, key].impl(name, _beneath_autocast(function) if key == "MPS" else function)


def schema(name: str) -> torch._C.FunctionSchema:
    """The schema of ATen operator `name`, without loading torch.ops' wrappers."""
    base, _, overload = name.partition(".")
    return torch._C._get_schema(f"aten::{base}", overload)
