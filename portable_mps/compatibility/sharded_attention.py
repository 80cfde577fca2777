"""scaled_dot_product_attention of DTensors: torch knows how to divide CUDA's operators, and rings of them, not ours."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch

_aten = torch.ops.aten
_forward = _aten._scaled_dot_product_fused_attention_overrideable.default
_backward = _aten._scaled_dot_product_fused_attention_overrideable_backward.default

_BATCH, _HEADS, _ROWS = 0, 1, 2


def divide(module: ModuleType) -> None:
    """module: torch.distributed.tensor. By batch and by heads; whatever is divided in another way is gathered."""
    module.DTensor._op_dispatcher._custom_op_handlers |= {_forward: _attention, _backward: _attention_backward}


def pass_around(module: ModuleType) -> None:
    """module: context parallelism's, in which keys and values go round from process to process."""

    def attention(op: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, ...]:
        query, key, value, bias, dropout, is_causal, _ = _completed(arguments, None, 0.0, False, False)
        _refuse(bias, dropout)
        mesh, placements = query.device_mesh, query.placements
        out, logsumexp, *_ = module._templated_ring_attention(
            mesh.get_group(),
            _ROWS,
            _forward,
            *(_shard_by_rows(tensor) for tensor in (query, key, value)),
            is_causal=is_causal,
            **keywords,
        )
        out, logsumexp = (_distributed(tensor, mesh, placements) for tensor in (out, logsumexp))
        return _results(out, logsumexp, key.shape[2], torch.tensor(0), torch.tensor(0))

    def backward(op: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, ...]:
        grad, query, key, value, bias, wanted, out, logsumexp, _, _, max_q, max_k, dropout, is_causal, *seeds = (
            arguments
        )
        _refuse(bias, dropout)
        mesh, placements = query.device_mesh, query.placements
        gradients = module._templated_ring_attention_backward(
            mesh.get_group(),
            _ROWS,
            _backward,
            _shard_by_rows(grad.redistribute(mesh, placements)),
            "grad_out",
            *(_shard_by_rows(tensor) for tensor in (query, key, value, out, logsumexp)),
            is_causal,
            attn_bias=None,
            grad_input_mask=[True, True, True, False],
            cum_seq_q=None,
            cum_seq_k=None,
            max_q=max_q,
            max_k=max_k,
            dropout_p=0.0,
            philox_seed=seeds[0],
            philox_offset=seeds[1],
            **keywords,
        )
        found = zip(gradients[:3], wanted[:3], strict=True)
        return *(_distributed(tensor, mesh, placements) if is_wanted else None for tensor, is_wanted in found), None

    module.custom_ops |= {_forward: attention, _backward: backward}  # type: ignore[attr-defined]


def _refuse(bias: Any, dropout: float) -> None:
    if bias is not None:
        raise NotImplementedError("scaled_dot_product_attention: context parallelism takes no attn_mask")
    if dropout > 0:
        raise NotImplementedError("scaled_dot_product_attention: context parallelism takes no dropout")


def _shard_by_rows(tensor: Any) -> torch.Tensor:
    from torch.distributed.tensor import Shard

    if tuple(tensor.placements) != (Shard(_ROWS),):
        raise NotImplementedError(
            f"scaled_dot_product_attention: context parallelism takes Shard({_ROWS}), not {tensor.placements}"
        )
    return tensor._local_tensor


def _attention(op: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, ...]:
    query, key, value, bias, dropout, is_causal, _ = _completed(arguments, None, 0.0, False, False)
    mesh, placements = _division(query, key, value)
    local = _locals(mesh, placements, query, key, value)
    out, logsumexp, _, _, _, _, *seeds, _ = op(
        *local, _local_bias(bias, mesh, placements), dropout, is_causal, False, **keywords
    )
    shape = (*query.shape[:3], value.shape[3])
    return _results(
        _distributed(out, mesh, placements, shape),
        _distributed(logsumexp, mesh, placements, shape[:3]),
        key.shape[2],
        *seeds,
    )


def _attention_backward(op: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, ...]:
    grad, query, key, value, bias, wanted, out, logsumexp, _, _, *rest = arguments
    mesh, placements = _division(query, key, value)
    local = _locals(mesh, placements, grad, query, key, value, out, logsumexp)
    local_bias = _local_bias(bias, mesh, placements)
    gradients = op(*local[:4], local_bias, wanted, *local[4:], None, None, *rest, **keywords)
    results: list[Any] = [
        None if gradient is None else _distributed(gradient, mesh, placements, tensor.shape)
        for gradient, tensor in zip(gradients[:3], (query, key, value), strict=True)
    ]
    if gradients[3] is None:
        return *results, None
    return *results, _distributed(gradients[3], mesh, _bias_placements(bias, placements, is_sum=True), bias.shape)


def _completed(arguments: tuple[Any, ...], *defaults: Any) -> tuple[Any, ...]:
    """Three tensors and what stands behind them: arguments at their defaults are left out."""
    return arguments + defaults[len(arguments) - 3 :]


def _results(out: Any, logsumexp: Any, columns: int, seed: Any, offset: Any) -> tuple[Any, ...]:
    """Without what the backward pass can do without: what the output lost, each row's maximum and sum."""
    return out, logsumexp, None, None, out.shape[2], columns, seed, offset, None


def _division(query: Any, key: Any, value: Any) -> tuple[Any, list[Any]]:
    """The mesh, and along each of its dimensions whether batches or heads are divided, or nothing."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    if not all(isinstance(tensor, DTensor) for tensor in (query, key, value)):
        raise RuntimeError(
            "scaled_dot_product_attention got mixed torch.Tensor and DTensor, need to convert all torch.Tensor to "
            "DTensor before calling distributed operators!"
        )
    mesh, counts = query.device_mesh, [query.shape[_BATCH], key.shape[_HEADS]]
    placements: list[Any] = []
    for dimension, each in enumerate(zip(query.placements, key.placements, value.placements, strict=True)):
        size, placement = mesh.size(dimension), each[0]
        is_shared = placement in (Shard(_BATCH), Shard(_HEADS)) and len(set(each)) == 1
        if is_shared and counts[placement.dim] % size == 0:
            counts[placement.dim] //= size
        else:
            placement = Replicate()
        placements.append(placement)
    return mesh, placements


def _locals(mesh: Any, placements: Sequence[Any], *tensors: Any) -> list[torch.Tensor]:
    return [tensor.redistribute(mesh, placements)._local_tensor for tensor in tensors]


def _bias_placements(bias: Any, placements: Sequence[Any], is_sum: bool = False) -> list[Any]:
    """Those of a bias that is broadcast along some dimensions; is_sum: of its gradient."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    found: list[Any] = []
    for placement in placements:
        dimension = placement.dim - (4 - bias.dim()) if isinstance(placement, Shard) else None
        if dimension is None:
            found.append(Replicate())
        elif dimension >= 0 and bias.shape[dimension] > 1:
            found.append(Shard(dimension))
        else:
            found.append(Partial() if is_sum else Replicate())
    return found


def _local_bias(bias: Any, mesh: Any, placements: Sequence[Any]) -> torch.Tensor | None:
    return None if bias is None else bias.redistribute(mesh, _bias_placements(bias, placements))._local_tensor


def _distributed(
    local: torch.Tensor, mesh: Any, placements: Sequence[Any], shape: Sequence[int] | None = None
) -> torch.Tensor:
    """shape: of the whole; as many parts of the size of this one where it is left out."""
    from torch.distributed.tensor import DTensor

    if shape is None:
        return DTensor.from_local(local, mesh, placements, run_check=False)
    stride = torch.empty(tuple(shape), device="meta").stride()
    return DTensor.from_local(
        local.contiguous(), mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride
    )
