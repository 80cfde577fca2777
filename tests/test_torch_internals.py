"""The parts of torch that are not public and that we rely on: when one goes, this says which, and who uses it."""

import pytest

_RINGS = "torch.distributed.tensor.experimental._context_parallel._attention"
INTERNALS = {
    "torch._C._conv_determine_backend_memory_format": "compatibility/inductor.py: convolutions' strides",
    "torch._dynamo.trace_rules.add": "compatibility/inductor.py: what Dynamo leaves alone",
    "torch._inductor.codegen.mps.MetalScheduling": "compatibility/inductor.py: in its place is ours",
    "torch._inductor.codegen.simd.SIMDKernel": "inductor/kernel.py",
    "torch._inductor.codegen.simd.SIMDScheduling": "inductor/scheduling.py",
    "torch._inductor.codegen.triton_utils.is_unaligned_buffer": "inductor/vectors.py",
    "torch._inductor.kernel.flex.flex_mps.lower_mps": "compatibility/inductor.py: in its place is ours",
    "torch._inductor.output_code.CompiledFxGraph.post_compile": "compatibility/inductor.py: replays of graphs",
    "torch._inductor.utils.BoxedBool.disable": "compatibility/inductor.py: no CUDA graphs",
    "torch._inductor.lowering.process_subgraph_nodes": "inductor/flex.py",
    "torch.compiler.config.cache_key_tag": "compatibility/inductor.py: versions of the generator",
    "torch._inductor.ir.Layout._stride_expr_ge_or_false": "compatibility/inductor.py: comparing strides",
    "torch.nn.attention.flex_attention._validate_device": "compatibility/inductor.py: gradients of flex_attention",
    "torch._C._get_schema": "dispatch/registry.py: schemas without loading torch.ops",
    "torch._C.StorageBase": "torch_mps.py: storages with our allocator",
    "torch._C._has_mps": "torch_mps.py: is_built()",
    "torch._decomp.decomposition_table": "dispatch/fallback.py",
    "torch._linalg_check_errors": "ops/linalg_*.py: error codes to LAPACK's errors, in torch's words",
    "torch._meta_registrations.linalg_householder_product": "ops/linalg_qr.py: its checks, and those of ormqr",
    "torch._prims_common.wrappers._maybe_resize_out": "dispatch/fallback.py, ops/linalg.py, ops/matmul.py",
    "torch.ops.aten._scaled_dot_product_fused_attention_overrideable": "ops/attention.py",
    "torch.ops.aten._scaled_dot_product_attention_math": "ops/attention.py",
    "torch.distributed.distributed_c10d.ProcessGroupGloo._Options": "compatibility/distributed.py: copies of them",
    "torch.distributed.fsdp._fully_shard._fsdp_state.FSDPState._root_pre_forward": "compatibility/distributed.py",
    "torch.distributed.tensor.DTensor._op_dispatcher._custom_op_handlers": "compatibility/sharded_attention.py",
    f"{_RINGS}._templated_ring_attention": "compatibility/sharded_attention.py",
    f"{_RINGS}._templated_ring_attention_backward": "compatibility/sharded_attention.py",
    f"{_RINGS}.custom_ops": "compatibility/sharded_attention.py",
    "torch.mps._is_in_bad_fork": "torch_mps.py",
    "torch.utils._foreach_utils._get_foreach_kernels_supported_devices": "torch_mps.py: foreach by default",
}


@pytest.mark.parametrize("name", INTERNALS)
def test_is_there(name):
    import torch._decomp
    import torch._dynamo.trace_rules
    import torch._inductor.codegen.mps
    import torch._inductor.codegen.triton_utils
    import torch._inductor.kernel.flex.flex_mps
    import torch._inductor.lowering
    import torch._inductor.output_code
    import torch._meta_registrations
    import torch._prims_common.wrappers
    import torch.distributed.fsdp
    import torch.distributed.tensor.experimental._attention
    import torch.nn.attention.flex_attention

    found = torch
    for part in name.split(".")[1:]:
        found = getattr(found, part)


def test_what_torch_mps_calls_is_ours():
    """Every function of torch._C that torch.mps's sources name exists; what Metal alone can do is listed here."""
    import inspect
    import re

    import torch.backends.mps
    import torch.mps.event
    import torch.mps.profiler

    sources = [torch.mps, torch.mps.event, torch.mps.profiler, torch.backends.mps]
    named = {name for module in sources for name in re.findall(r"torch\._C\.(_mps_\w+)", inspect.getsource(module))}
    absent = {name for name in named if not hasattr(torch._C, name)}
    assert absent == METAL_ONLY


METAL_ONLY: set[str] = set()
