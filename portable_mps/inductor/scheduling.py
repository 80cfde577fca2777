"""Inductor's scheduler for Slang kernels: what may be fused, and a kernel's name and definition in the wrapper."""

from __future__ import annotations

from typing import Any

import torch
from torch._inductor import config
from torch._inductor.codegen.common import BackendFeature
from torch._inductor.codegen.simd import SIMDScheduling
from torch._inductor.utils import get_fused_kernel_name, get_kernel_metadata
from torch._inductor.virtualized import V
from torch.utils._ordered_set import OrderedSet

from portable_mps.inductor.kernel import SlangKernel

_IMPORT = "from portable_mps.inductor.launch import graph_kernel"


class SlangScheduling(SIMDScheduling):
    """Products, convolutions, attention, sorting and scans are eager's kernels, which Inductor calls by their names."""

    kernel_type = SlangKernel

    @classmethod
    def get_backend_features(cls, device: torch.device) -> OrderedSet[BackendFeature]:
        """What Inductor may ask of the generator."""
        return OrderedSet([BackendFeature.INPLACE_BUFFERS, BackendFeature.TUPLE_REDUCTION])

    def define_kernel(self, src_code: str, node_schedule: Any, kernel: SlangKernel) -> str:
        """The name of a kernel with this source in the wrapper, which defines it once."""
        wrapper = V.graph.wrapper_code
        if V.graph.cpp_wrapper:
            raise NotImplementedError("mps kernels are launched from Python: no cpp_wrapper and no AOTInductor package")
        known = wrapper.src_to_kernel.get(src_code)
        if known is not None:
            return known
        fused = get_fused_kernel_name(node_schedule, config.triton.descriptive_names)
        name = "_".join(("slang", fused, wrapper.next_kernel_suffix()))
        wrapper.src_to_kernel[src_code] = name
        wrapper.add_import_once(_IMPORT)
        access, numbers, messages = kernel.constants_of_launch()
        body = f"graph_kernel({name!r}, {access!r}, {numbers!r}, {messages!r}, '''\n{src_code}''')"
        origins, detailed = get_kernel_metadata(node_schedule, wrapper)
        wrapper.define_kernel(name, body, f"{origins}\n{detailed}", gpu=False)
        return name
