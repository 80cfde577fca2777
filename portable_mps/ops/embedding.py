"""Embeddings: the gradient and renormalisation of one; sums, means and maxima over bags of one's rows.

Indices and offsets are checked on the device: a wrong one reads nothing and raises at the next synchronisation.
"""

from __future__ import annotations

import torch

from portable_mps.dispatch import atomics, deterministic
from portable_mps.dispatch.launch import check_turns
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import Linear, dtype_defines
from portable_mps.ops.indexing import along, combining, copies_of_sums
from portable_mps.runtime import device

_LAYOUT = "10QqqxxxxxIIII"
_forward = Linear("embedding", "forward", _LAYOUT)
_backward = Linear("embedding", "backward", _LAYOUT)
_MODES = ("SUM", "MEAN", "MAXIMUM")  # torch's numbers
_SUM, _MEAN, _MAXIMUM = range(3)
_INDEX_TYPES = {torch.int64: "int64_t", torch.int32: "int"}

Bags = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _index_type(name: str, tensor: torch.Tensor) -> None:
    if tensor.dtype not in _INDEX_TYPES:
        raise RuntimeError(
            f"Expected tensor for argument {name} to have one of the following scalar types: Long, Int; but got "
            f"{tensor.dtype} instead (while checking arguments for embedding_bag)"
        )


def _check(
    weight: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    mode: int,
    per_sample_weights: torch.Tensor | None,
    include_last_offset: bool,
) -> None:
    _index_type("indices", indices)
    _index_type("offsets", offsets)
    if not weight.is_floating_point():
        raise RuntimeError(f"embedding_bag: expected a floating-point weight, but got {weight.dtype}")
    if weight.dim() != 2 or indices.dim() != 1 or offsets.dim() != 1:
        raise RuntimeError(
            "embedding_bag: weight has to be a matrix, indices and offsets vectors, but they have "
            f"{weight.dim()}, {indices.dim()} and {offsets.dim()} dimensions"
        )
    if include_last_offset and offsets.size(0) < 1:
        raise RuntimeError("include_last_offset: number of offset should be at least 1")
    if per_sample_weights is None:
        return
    if mode != _SUM:
        raise RuntimeError(
            "embedding_bag: per_sample_weights only supported with mode='sum' (got mode='"
            f"{('sum', 'mean', 'max')[mode]}')"
        )
    if per_sample_weights.dtype != weight.dtype:
        raise RuntimeError(
            f"expected weight ({weight.dtype}) and per_sample_weights ({per_sample_weights.dtype}) of the same dtype"
        )
    if per_sample_weights.dim() != 1 or per_sample_weights.numel() != indices.numel():
        raise RuntimeError("embedding_bag: per_sample_weights has to be a vector as long as indices")


@implements("_embedding_bag", "_embedding_bag_forward_only")
def _embedding_bag(
    weight: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = _SUM,
    sparse: bool = False,
    per_sample_weights: torch.Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> Bags:
    """(bags, width) results, the bag of each index, the size of each bag, and (bags, width) rows of the maxima."""
    _check(weight, indices, offsets, mode, per_sample_weights, include_last_offset)
    dtype = torch.promote_types(indices.dtype, offsets.dtype)
    indices, offsets, rows = indices.to(dtype).contiguous(), offsets.to(dtype).contiguous(), weight.contiguous()
    factors = None if per_sample_weights is None else per_sample_weights.contiguous()
    bags, width, samples = offsets.size(0) - int(include_last_offset), weight.size(1), indices.size(0)
    out = torch.empty((bags, width), dtype=weight.dtype, device=weight.device)
    bag_of = torch.full((samples,), -1, dtype=dtype, device=weight.device)
    sizes = torch.zeros(bags, dtype=dtype, device=weight.device)
    maxima = torch.empty((bags, width) if mode == _MAXIMUM else 0, dtype=dtype, device=weight.device)
    if samples > device.current().adapter.loop_limit:
        ends = torch.nn.functional.pad(offsets, (0, 1 - int(include_last_offset)), value=samples)
        check_turns("embedding_bag", int(ends.diff().max()))
    if out.numel():
        errors = device.current().errors
        index = "embedding_bag: Expected idx >= 0 && idx < num_embeddings but found idx to be {index}"
        first = "offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start from position 0. "
        order = f"embedding_bag: offsets have to ascend and stay within the {samples} indices, but one is {{index}}"
        codes = [errors.arm(message, RuntimeError) for message in (index, first + "However, got {index}", order)]
        _forward(
            out.numel(),
            (rows, indices, offsets, 0 if factors is None else factors, out, bag_of, sizes, maxima, 0, errors.address,
             weight.size(0), padding_idx, out.numel(), width, samples, bags, offsets.size(0), 1, *codes),
            [t for t in (rows, indices, offsets, factors) if t is not None],
            [out, bag_of, sizes, maxima],
            FORWARD=1,
            MODE=_MODES[mode],
            WEIGHTED=int(factors is not None),
            I=_INDEX_TYPES[dtype],
            **dtype_defines("T", weight.dtype),
            **dtype_defines("S", weight.dtype),
        )  # fmt: skip
    return out, bag_of, sizes, maxima


@implements("_embedding_bag_dense_backward")
def _embedding_bag_dense_backward(
    grad: torch.Tensor,
    indices: torch.Tensor,
    offset2bag: torch.Tensor,
    bag_size: torch.Tensor,
    maximum_indices: torch.Tensor,
    num_weights: int,
    scale_grad_by_freq: bool,
    mode: int,
    per_sample_weights: torch.Tensor | None,
    padding_idx: int = -1,
) -> torch.Tensor:
    """(num_weights, width), added up in float32 for half types. Order, and so the last bits, may vary."""
    _index_type("indices", indices)
    if mode == _MAXIMUM and scale_grad_by_freq:
        raise RuntimeError("embedding_bag: max mode does not support scaling the gradient by the frequency")
    bags, width = grad.shape
    grad = grad.contiguous()
    dtype = offset2bag.dtype
    indices = indices.to(dtype).contiguous()
    factors = None if per_sample_weights is None else per_sample_weights.to(grad.dtype).contiguous()
    tables = [t.contiguous() for t in (offset2bag, bag_size, maximum_indices)]
    count = grad.numel() if mode == _MAXIMUM else indices.numel() * width
    copies = copies_of_sums(count, num_weights * width)
    many = combining(torch.zeros((copies, num_weights, width), dtype=grad.dtype, device=grad.device))
    if count and bags:
        deterministic.alert("_embedding_bag_dense_backward")
        atomics.require("_embedding_bag_dense_backward", many.dtype)
        _backward(
            count,
            (0, indices, 0, 0 if factors is None else factors, grad, *tables, many, 0,
             num_weights, padding_idx, count, width, indices.numel(), bags, 0, copies, 0, 0, 0),
            [t for t in (indices, factors, grad, *tables) if t is not None],
            [many],
            MODE=_MODES[mode],
            WEIGHTED=int(factors is not None),
            I=_INDEX_TYPES[dtype],
            **dtype_defines("T", grad.dtype),
            **dtype_defines("S", many.dtype),
        )  # fmt: skip
    total = many.sum(0) if copies > 1 else many[0]
    if scale_grad_by_freq:
        counts = torch.zeros(num_weights, dtype=total.dtype, device=total.device)
        along("sum", counts, 0, indices, torch.ones((), dtype=total.dtype, device=total.device).expand(indices.shape))
        total /= counts.clamp_(min=1).unsqueeze(1)
    return total.to(grad.dtype)


@implements("_embedding_bag_backward")
def _embedding_bag_backward(
    grad: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    offset2bag: torch.Tensor,
    bag_size: torch.Tensor,
    maximum_indices: torch.Tensor,
    num_weights: int,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    per_sample_weights: torch.Tensor | None,
    padding_idx: int = -1,
) -> torch.Tensor:
    if sparse:
        return torch.ops.aten._embedding_bag_sparse_backward(
            grad, indices, offsets, offset2bag, bag_size, num_weights, scale_grad_by_freq, mode, per_sample_weights,
            padding_idx,
        )  # fmt: skip
    return _embedding_bag_dense_backward(
        grad, indices, offset2bag, bag_size, maximum_indices, num_weights, scale_grad_by_freq, mode,
        per_sample_weights, padding_idx,
    )  # fmt: skip


@implements("_embedding_bag_per_sample_weights_backward")
def _embedding_bag_per_sample_weights_backward(
    grad: torch.Tensor,
    weight: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    offset2bag: torch.Tensor,
    mode: int,
    padding_idx: int = -1,
) -> torch.Tensor:
    if mode != _SUM:
        raise RuntimeError("embedding_bag_backward: per_sample_weights only supported for mode='sum'")
    if grad.size(0) == 0 or indices.numel() == 0:
        return torch.zeros(indices.shape, dtype=grad.dtype, device=grad.device)
    of_bags, of_rows = (t.index_select(0, i) for t, i in ((grad, offset2bag.clamp(min=0)), (weight, indices)))
    products = combining(of_bags).mul_(of_rows).sum(1)
    return products.masked_fill_((offset2bag < 0) | (indices == padding_idx), 0).to(grad.dtype)


# Embedding: the forward is index_select ---------------------------------------------------------------------------


@implements("embedding_dense_backward")
def embedding_dense_backward(
    grad_output: torch.Tensor, indices: torch.Tensor, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> torch.Tensor:
    """The gradients of each row added up, in float32 for half types. Order, and so the last bits, may vary."""
    width = grad_output.size(-1)
    rows = combining(grad_output.reshape(-1, width))
    flat = indices.reshape(-1)
    total = torch.zeros((num_weights, width), dtype=rows.dtype, device=rows.device)
    along("sum", total, 0, flat.view(-1, 1), rows)
    if scale_grad_by_freq:
        counts = torch.zeros(num_weights, dtype=rows.dtype, device=rows.device)
        along("sum", counts, 0, flat, torch.ones((), dtype=rows.dtype, device=rows.device).expand(flat.shape))
        total /= counts.clamp_(min=1).unsqueeze(1)
    if padding_idx >= 0:
        total[padding_idx].zero_()
    return total.to(grad_output.dtype)


@implements("embedding_renorm_")
def embedding_renorm_(self: torch.Tensor, indices: torch.Tensor, max_norm: float, norm_type: float) -> torch.Tensor:
    """Scale the rows that `indices` point at down to a norm of max_norm."""
    flat = indices.reshape(-1).long()
    rows = self.index_select(0, flat)
    norms = torch.linalg.vector_norm(rows, norm_type, dim=1, keepdim=True)
    scaled = torch.where(norms > max_norm, rows * (max_norm / (norms + 1e-7)), rows)
    return self.index_copy_(0, flat, scaled.to(self.dtype))
