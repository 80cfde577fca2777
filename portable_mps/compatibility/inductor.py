"""torch.compile's code generator for this device."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any


def generate_slang(module: ModuleType) -> None:
    """Put our scheduler in the place of Inductor's for Metal, before Inductor registers that."""
    from portable_mps.inductor.scheduling import SlangScheduling

    module.MetalScheduling = SlangScheduling  # type: ignore[attr-defined]


def draw_as_eager(module: ModuleType) -> None:
    """Random numbers are eager's kernels', with eager's seeds and values, until the user says otherwise."""
    module.fallback_random = True  # type: ignore[attr-defined]


def prepare(module: ModuleType) -> None:
    """Before Dynamo traces anything.

    Our kernels are planned in Python, and run where Dynamo looks on: they are not part of anybody's model. What
    Inductor's cache on disk holds are generated kernels: those of another generator than this, or for an adapter that
    can do other things, are not ours.
    """
    import torch

    from portable_mps.runtime import adapter

    for name in ("dispatch", "inductor", "ops", "runtime"):  # not torch_mps: what torch calls of it may be traced
        module.add(f"portable_mps.{name}")
    module.add("slangpy")
    sources = [Path(__file__), *sorted((Path(__file__).parent.parent / "inductor").glob("*.py"))]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    try:
        chosen = adapter.choose()
        kind = f"{sorted(chosen.features.items())} {chosen.is_software}"
    except RuntimeError:  # no adapter, or a setting that names none: the first tensor will say so
        kind = ""
    torch.compiler.config.cache_key_tag += f"portable-mps {digest} {kind}"


def replay_graphs(module: ModuleType) -> None:
    """With mode="reduce-overhead", calls of a graph are replayed: CUDA's way, without its fixed addresses."""
    from torch._inductor.cudagraph_utils import log_cudagraph_skip_and_bump_counter
    from torch._inductor.utils import BoxedBool

    from portable_mps import _C

    def refused(reason: str) -> None:
        log_cudagraph_skip_and_bump_counter(f"mps: calls of this graph are not replayed: {reason}")

    post_compile = module.CompiledFxGraph.post_compile

    def with_replays(self: Any, example_inputs: Any, constants: Any, graph_kwargs: Any) -> None:
        if "mps" not in self.device_types:
            return post_compile(self, example_inputs, constants, graph_kwargs)
        BoxedBool.disable(graph_kwargs["cudagraphs"])
        post_compile(self, example_inputs, constants, graph_kwargs)
        if module.config.triton.cudagraphs:
            self.current_callable = _C.ReplayedGraph(self.current_callable, refused)

    module.CompiledFxGraph.post_compile = with_replays


def keep_embeddings(module: ModuleType) -> None:
    """The gradient of an embedding stays eager's, which sorts: added up by atomics, equal tokens wait for each other.

    So do all of BERT's for the two rows of their types.
    """
    import torch
    from torch._inductor.decomposition import decompositions

    operator = torch.ops.aten.embedding_dense_backward
    of_others = decompositions[operator.default]

    def decompose(grad_output: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if grad_output.device.type == "mps":
            return NotImplemented
        return of_others(grad_output, *arguments, **options)

    decompositions[operator.default] = decompose
    module.make_fallback(operator, warn=False, override_decomp=True)


def compare_strides(module: ModuleType) -> None:
    """Whether a stride is a multiple of another, asked with torch's remainder of symbols: that of sympy makes of it a
    power of minus one, which no guard can hold. Met by convolutions in graphs compiled for any size."""
    import sympy
    from torch._inductor.virtualized import V
    from torch.utils._sympy.functions import Mod

    def is_not_less(left: Any, right: Any) -> bool:
        holds = V.graph.sizevars.guard_or_false
        if holds(sympy.Eq(right, 0)):
            return True
        if holds(sympy.Eq(left, 0)):
            return False
        return bool(holds(sympy.Ge(left, right)) or holds(sympy.Eq(Mod(left, right), 0)))

    module.Layout._stride_expr_ge_or_false = staticmethod(is_not_less)


def lay_out_convolutions(module: ModuleType) -> None:
    """A convolution without memory has the strides of ours: torch knows Metal's in its own builds alone."""
    import torch

    of_others = torch._C._conv_determine_backend_memory_format

    def determine(input: torch.Tensor, weight: torch.Tensor, backend: Any) -> torch.memory_format:
        if input.device.type != "mps":
            return of_others(input, weight, backend)
        from portable_mps.ops.convolution import SMALL, format_like

        return format_like(input, weight, input.dtype in SMALL)

    torch._C._conv_determine_backend_memory_format = determine


def compose_flex_attention(module: ModuleType) -> None:
    """Torch's templates are written in Metal, without a gradient, or in Triton."""
    import torch
    from torch._inductor.lowering import lowerings

    def replace(operator: Any, name: str) -> None:
        of_others = lowerings[operator]

        def lower(*arguments: Any, **options: Any) -> Any:
            if arguments[0].get_device().type != "mps":
                return of_others(*arguments, **options)
            from portable_mps.inductor import flex

            return getattr(flex, name)(*arguments, **options)

        lowerings[operator] = lower

    replace(torch.ops.higher_order.flex_attention, "forward")
    replace(torch.ops.higher_order.flex_attention_backward, "backward")


def differentiate_flex_attention(module: ModuleType) -> None:
    """It refuses gradients where torch has no kernel for them."""
    of_others = module._validate_device

    def validate(query: Any, key: Any, value: Any) -> None:
        if query.device.type != "mps":
            of_others(query, key, value)

    module._validate_device = validate  # type: ignore[attr-defined]
