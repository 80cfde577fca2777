"""The launcher of matrix products: which kernel, engine and tile a product takes, planned once for its shapes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from portable_mps import _C
from portable_mps.dispatch import engines, tiles
from portable_mps.dispatch.checks import number_of
from portable_mps.dispatch.engines import PLAIN, SUBGROUP, WORKGROUP
from portable_mps.dispatch.launch import Prepared, check_turns, grid, remember
from portable_mps.dispatch.pointwise import Pointwise
from portable_mps.dispatch.promotion import Promotion, storage, summed_in
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

# By the type that is accumulated, which alpha and beta have, too.
_NUMBERS = {"float": "f", "double": "d", "int": "i", "int64_t": "q"}
_MAX_BATCH = 32768  # workgroups in z
_SUM_BYTES, _MOST_PARTS = 1 << 25, 64  # of sums that are added up: see `_in_short_sums`
_TINY_ELEMENTS, _TINY_DEPTH = 512, 64  # up to which a thread takes an element of the result
_ELEMENTS = {torch.float16: "half", torch.bfloat16: "BFloat16", torch.float32: "float", torch.int8: "int8_t"}
_RESULTS = {torch.float32: "float", torch.float16: "half", torch.bfloat16: "BFloat16", torch.int32: "int"}
_FLOAT8 = {torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz}


def _templates(stem: str, entry: str, counted: bool, more: str = "") -> dict[str, Template]:
    """By accumulator, with alpha and beta; and "" without. counted: the parameters have the number of elements."""
    count = "q" if counted else ""
    plain = {"": Template(stem, entry, f"QQQqqq{count}{'i' * 9}{more}")}
    return plain | {
        acc: Template(stem, entry, f"QQQQqqqq{count}{'i' * 11}2{code}{more}") for acc, code in _NUMBERS.items()
    }


_product = _templates("matmul", "matmul", counted=False)
_split = _templates("matmul", "matmul", counted=False, more="ii")
_taps = _templates("matmul", "matmul", counted=False, more="Q")
_tiny = _templates("matmul_tiny", "tiny", counted=True)
_combine = _templates("matmul_combine", "combine", counted=True)
_by_columns = _templates("matvec", "by_columns", counted=False)
_by_rows = _templates("matvec", "by_rows", counted=False)
_by_columns_split = _templates("matvec", "by_columns", counted=False, more="ii")
_by_rows_split = _templates("matvec", "by_rows", counted=False, more="ii")
_FEW_ROWS = 4  # up to which a product is bound by reading the other operand
# Of matvec.slang's workgroups: threads along the contiguous dimension and not, and columns of such a row of threads.
_VECTOR_WIDTH, _VECTOR_HEIGHT, _VECTOR_SIDE = 32, 8, 2


class Finish(NamedTuple):
    """An elementwise function of a product: in Slang, of x, in the accumulated type ACC; and what to import for it."""

    expression: str = "x"
    module: str = ""

    @property
    def defines(self) -> dict[str, Any]:
        """What the compile key has of it."""
        imported = {"FINISH_MODULE": self.module} if self.module else {}
        return {"FINISH(x)": self.expression, "FINISHED": int(self is not AS_IS), **imported}


AS_IS = Finish()


def product(
    a: torch.Tensor,
    b: torch.Tensor,
    out: torch.Tensor,
    added: torch.Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 0.0,
    finish: Finish = AS_IS,
    terms: int = 0,
) -> None:
    """out = finish(alpha * a @ b + beta * added).

    a (batch, m, k), b (batch, k, n), out (batch, m, n), one dtype; added broadcasts to out. Any strides. Accumulates in
    float32 for half types, in the dtype's own width otherwise; float32 as torch.set_float32_matmul_precision says. a
    and b may be of two 8-bit float dtypes, and b of any that a's accumulator holds; out is then float32. finish is
    applied before the result is rounded. terms: how many float32 and the plain engine add up one by one, if that takes
    little memory: sums of sums are closer.
    """
    batch, m, k = a.shape
    n = b.shape[2]
    if out.numel() == 0:
        return
    if k == 0 and finish is AS_IS:
        out.zero_() if added is None or beta == 0 else torch.mul(added.expand_as(out), beta, out=out)
        return
    if out.is_complex():
        return _complex_product(a, b, out, added, alpha, beta)
    # The transposed product, where it lies by rows, or has few of them.
    if m > _FEW_ROWS and (n <= _FEW_ROWS or (out.stride(2) != 1 and out.stride(1) == 1)):
        turned = None if added is None else added.expand_as(out).transpose(1, 2)
        return product(b.transpose(1, 2), a.transpose(1, 2), out.transpose(1, 2), turned, alpha, beta, finish, terms)
    if batch > _MAX_BATCH and not _is_tiny(m, n, k):
        for start in range(0, batch, _MAX_BATCH):
            part = slice(start, start + _MAX_BATCH)
            rest = None if added is None else added.expand_as(out)[part]
            product(a[part], b[part], out[part], rest, alpha, beta, finish, terms)
        return
    if added is not None:
        added = added.expand_as(out)
        if beta != 0 and _overlaps(added, out):
            added = added.clone()
    a, b = _contiguous_way(a), _contiguous_way(b)
    d = out if added is None and alpha != 1 else added
    key: tuple[Any, ...] = (*_key(a, b, out), finish, terms)
    if a.dtype == torch.float32:
        key += (torch.get_float32_matmul_precision(),)
    if d is not None:
        key += (d.stride(), alpha, beta, d.data_ptr() == out.data_ptr())
    plan = _plans.get(key)
    if plan is None:
        if k > _longest():
            return _product_in_parts(a, b, out, added, alpha, beta, finish)
        plan = remember(_plans, key, Plan(a, b, out, d, alpha, beta, finish, terms=terms))
    plan.run(a, b, out, d)


def _key(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> tuple[Any, ...]:
    """What a plan depends on of its tensors; of addresses, whether wide loads and stores are aligned."""
    aligned = (a.data_ptr() & 31, b.data_ptr() & 31, out.data_ptr() & 31)
    return (a.shape, b.shape[2], a.stride(), b.stride(), out.stride(), a.dtype, b.dtype, out.dtype, *aligned)


def over_taps(
    a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, taps: torch.Tensor, added: torch.Tensor | None = None
) -> Plan:
    """A plan of out = the sum over taps of products of a, moved, with the next of several matrices b; plus `added`.

    a (batch, m, k) not moved, b (batch, k, n) the first, out (batch, m, n), to which `added` broadcasts. taps, int64:
    how many there are, the elements from one b to the next, and for each the elements that a is moved. Rows of a and b
    start at multiples of 16 bytes for every tap.
    """
    check_turns("convolution", (taps.numel() - 2) * _turns(a.shape[2]))
    d = None if added is None else added.expand_as(out)
    return Plan(a, b, out, d, 1.0, 0.0 if d is None else 1.0, AS_IS, taps)


def as_planned(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, terms: int) -> Plan | None:
    """The plan of `product` for tensors like these, out contiguous; None where that takes other ways."""
    if out.is_complex() or a.shape[2] > _longest() or a.shape[0] > _MAX_BATCH or b.shape[2] <= _FEW_ROWS:
        return None
    return Plan(a, b, out, None, 1.0, 0.0, AS_IS, terms=terms)


def _contiguous_way(tensor: torch.Tensor) -> torch.Tensor:
    """A (batch, rows, columns) view or copy with one of the last two strides equal to 1."""
    return tensor if 1 in tensor.stride()[1:] else tensor.contiguous()


def _turns(depth: int) -> int:
    """How many turns a thread takes for an inner dimension, where loops are limited: 10 for 16 elements."""
    return -(-depth // 16) * 10


def _longest() -> int:
    """The longest inner dimension that one dispatch takes."""
    return device.current().adapter.loop_limit // 10 * 16


def _product_in_parts(
    a: torch.Tensor,
    b: torch.Tensor,
    out: torch.Tensor,
    added: torch.Tensor | None,
    alpha: float,
    beta: float,
    finish: Finish,
) -> None:
    """`product` over parts of the inner dimension, in the accumulator's dtype; the last applies `finish`."""
    total = torch.zeros(out.shape, dtype=summed_in(out.dtype), device=out.device)
    starts = range(0, a.shape[2], _longest())
    for start in starts[:-1]:
        part = slice(start, start + _longest())
        product(a[:, :, part], b[:, part], total, total, alpha, 1.0)
    if added is not None and beta != 0:
        total += beta * added
    rest = slice(starts[-1], None)
    product(a[:, :, rest], b[:, rest], total, total, alpha, 1.0, finish)
    out.copy_(total)


_tables: list[dict[Any, Any]] = []


def table() -> dict[Any, Any]:
    """A table of plans that depend on how products are planned."""
    _tables.append({})
    return _tables[-1]


_plans = table()


def forget_plans() -> None:
    """Plan every product anew: what decides has changed."""
    for plans in _tables:
        plans.clear()
    _C.forget_replays()


class _Call(NamedTuple):
    """What the ways to plan a product share: its tensors, the compile key without a tile, the accumulator where there
    are alpha and beta, and the arguments that batches and the added term need."""

    a: torch.Tensor
    b: torch.Tensor
    out: torch.Tensor
    variant: dict[str, Any]
    scaled: str
    batches: tuple[int, ...]
    added: tuple[Any, ...]


class Plan:
    """The dispatches of `product`, all but the addresses; d is what beta is multiplied with."""

    def __init__(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        out: torch.Tensor,
        d: torch.Tensor | None,
        alpha: float,
        beta: float,
        finish: Finish,
        taps: torch.Tensor | None = None,
        terms: int = 0,
    ) -> None:
        self._convert = _conversion(a, b) if taps is None else None
        self._align_a = self._align_b = False
        self._parts: tuple[tuple[int, ...], torch.dtype] | None = None
        if self._convert is not None:
            a, b = self._convert(a, b)
        batch, m, k = a.shape
        n = b.shape[2]
        types = _types(a.dtype, b.dtype, out.dtype) | finish.defines
        added: tuple[Any, ...] = ()
        batches: tuple[int, ...] = (a.stride(0), b.stride(0), out.stride(0))
        if d is not None:
            batches += (d.stride(0),)
            kind = summed_in(out.dtype) if out.is_floating_point() else out.dtype  # which the numbers have to fit
            added = (d.stride(1), d.stride(2), *(number_of(number, kind).item() for number in (alpha, beta)))
        scaled = types["ACC"] if d is not None else ""
        variant = {"SCALED": int(d is not None), "SPLIT": 0, **types}
        result = (out.stride(1), out.stride(2))
        if taps is None and _is_tiny(m, n, k):
            sizes = (m, n, k, *a.stride()[1:], *b.stride()[1:], *result)
            groups = grid(-(-out.numel() // 256))
            self._main = Prepared(_tiny[scaled], groups, (*batches, out.numel(), *sizes, *added), TINY=1, **variant)
            return
        if taps is None and m <= _FEW_ROWS and a.dtype not in _FLOAT8:
            self._plan_vector(_Call(a, b, out, variant, scaled, batches, added))
            return
        choice = _choose(a, b, out.dtype, types["ACC"], moved=taps is not None)
        tile = choice.tile
        if terms and (tile.engine == PLAIN or a.dtype == torch.float32):
            choice = _in_short_sums(choice, batch * m * n, k, terms)
        if tile.engine == WORKGROUP and taps is None:
            self._align_a, self._align_b = not _is_aligned(a, 16), not _is_aligned(b, 16)
            a = _realigned(a) if self._align_a else a
            b = _realigned(b) if self._align_b else b
            batches = (a.stride(0), b.stride(0), *batches[2:])
        sizes = (m, n, k, *_pitches(a), *_pitches(b), *result)
        groups = (*grid(-(-n // tile.n) * -(-m // tile.m))[:2], batch * choice.splits)
        if choice.splits == 1:
            in_place = d is not None and beta != 0 and d.data_ptr() == out.data_ptr()
            count = 1 if taps is None else taps.numel() - 2
            key = variant | _layout(a, b, out, tile, k, in_place, count)
            if tile.engine == WORKGROUP and d is not None and alpha == beta == 1 and _span(d) < 1 << 31:
                key["SCALED"] = 2
            numbers = (*batches, *sizes, *added)
            if taps is not None:
                numbers += (taps,)
                key |= {"TAPS": 1}
            self._main = Prepared((_taps if taps is not None else _product)[scaled], groups, numbers, **key)
            return
        key = self._plan_parts(_Call(a, b, out, variant, scaled, batches, added), choice.splits)
        partial = torch.empty((1, m, n), dtype=summed_in(out.dtype), device=out.device)
        key |= _layout(a, b, partial, tile, choice.part, in_place=False)
        numbers = (*batches[:2], m * n, *sizes[:-2], n, 1, choice.splits, choice.part)
        self._main = Prepared(_split[""], groups, numbers, **key)

    def _plan_parts(self, call: _Call, splits: int) -> dict[str, Any]:
        """Plan how `splits` parts of K are added up; the compile key's types for the dispatch that makes them."""
        a, b, out, variant, scaled, batches, added = call
        batch, m, n = out.shape
        wide = summed_in(out.dtype)
        self._parts = (batch * splits, m, n), wide
        sums = storage(wide)
        sizes = (m, n, splits, 0, 0, 0, 0, out.stride(1), out.stride(2))
        self._combine = Prepared(
            _combine[scaled],
            grid(-(-out.numel() // 256)),
            (0, 0, *batches[2:], out.numel(), *sizes, *added),
            **(variant | {"A_T": sums.type, "B_T": sums.type, "TINY": 1}),
        )
        return {"SCALED": 0, "SPLIT": 1, **_types(a.dtype, b.dtype, wide), **AS_IS.defines}

    def _plan_vector(self, call: _Call) -> None:
        """Plan a product of a few rows, which is bound by reading b: enough workgroups to keep memory busy."""
        a, b, out, variant, scaled, batches, added = call
        batch, m, k = a.shape
        n = b.shape[2]
        by_rows = _contiguous(b) == 1
        word = 16 // b.element_size() if b.element_size() < 8 and _is_vector(b, 16) else 1
        columns = _VECTOR_HEIGHT * _VECTOR_SIDE if by_rows else _VECTOR_WIDTH * word
        across = -(-n // columns)
        # What a workgroup reads at a time; K is split while each part has several times that.
        step = _VECTOR_WIDTH * word * 4 if by_rows else _VECTOR_HEIGHT * 4
        wanted = 16 * (device.current().adapter.cores or tiles.CORES)
        splits = max(1, min(wanted // (across * batch), k // (4 * step), _MAX_BATCH // batch))
        part = -(-k // (splits * step)) * step
        splits = -(-k // part)
        groups = (*(grid(across)[:2] if by_rows else (across, 1)), batch * splits)
        fours = word > 1 and a.stride(2) == 1 and _is_aligned(a, 4 * a.element_size())
        more = {"ROWS": m, "WORD": word, "B_BYTES": b.element_size(), "FOURS": int(fours)}
        sizes = (m, n, k, *a.stride()[1:], *_pitches(b))
        if splits == 1:
            plain = (_by_rows if by_rows else _by_columns)[scaled]
            self._main = Prepared(
                plain, groups, (*batches, *sizes, out.stride(1), out.stride(2), *added), **variant, **more
            )
            return
        key = self._plan_parts(call, splits)
        split = (_by_rows_split if by_rows else _by_columns_split)[""]
        self._main = Prepared(split, groups, (*batches[:2], m * n, *sizes, n, 1, splits, part), **key, **more)

    def run(self, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, d: torch.Tensor | None) -> None:
        """Record the dispatches for these tensors, which have the plan's shapes, strides and alignment."""
        if self._convert is not None:
            a, b = self._convert(a, b)
        if self._align_a:
            a = _realigned(a)
        if self._align_b:
            b = _realigned(b)
        if self._parts is None:
            if d is None:
                self._main.record((a, b, out), (a, b), (out,))
            else:
                self._main.record((a, b, out, d), (a, b, d), (out,))
            return
        shape, dtype = self._parts
        parts = torch.empty(shape, dtype=dtype, device=out.device)
        self._main.record((a, b, parts), (a, b), (parts,))
        if d is None:
            self._combine.record((parts, parts, out), (parts,), (out,))
        else:
            self._combine.record((parts, parts, out, d), (parts, d), (out,))


def _choose(a: torch.Tensor, b: torch.Tensor, result: torch.dtype, accumulator: str, moved: bool) -> tiles.Choice:
    """The best engine's tile for a @ b; the next one's where that has none. moved: it is a sum over taps."""
    batch, m, k = a.shape
    shape = tiles.Shape(batch, m, b.shape[2], k, _contiguous(a) == 2, _contiguous(b) == 1, a.dtype, accumulator)
    results = (a.dtype, torch.float32) if a.is_floating_point() else (torch.int32,)
    best = engines.engine_for(a.dtype) if a.dtype == b.dtype and result in results else PLAIN
    for engine in engines.ENGINES[engines.ENGINES.index(best) :]:
        if engine == WORKGROUP and max(_span(a), _span(b)) >= 1 << 31:  # the driver's offsets are of 32 bits
            continue
        # Gathering bytes one by one was seen to crash a driver's compiler.
        if engine == SUBGROUP and a.element_size() == 1 and not (_is_vector(a, 16) and _is_vector(b, 16)):
            continue
        if engine == WORKGROUP and moved and not (_is_aligned(a, 16) and _is_aligned(b, 16)):
            continue
        if engine != best and not engines.has(device.current().adapter, engine, a.dtype):
            continue
        choice = tiles.choose(shape, engine, splits_k=not moved)
        if choice is not None:
            return choice
    raise AssertionError("the plain engine has a tile for every product")


def _in_short_sums(choice: tiles.Choice, sums: int, depth: int, terms: int) -> tiles.Choice:
    """`choice` with K split so that about `terms` are added up one by one, within _SUM_BYTES and _MOST_PARTS."""
    parts = min(_SUM_BYTES // (4 * sums), _MOST_PARTS)
    part = -(-max(terms, -(-depth // max(parts, choice.splits))) // choice.tile.k) * choice.tile.k
    return tiles.Choice(choice.tile, -(-depth // part), part) if part < choice.part else choice


def _span(tensor: torch.Tensor) -> int:
    """Elements from the first to the last of a matrix of the batch."""
    return sum((n - 1) * s for n, s in zip(tensor.shape[1:], tensor.stride()[1:], strict=True))


def _is_tiny(m: int, n: int, k: int) -> bool:
    return m * n <= _TINY_ELEMENTS and k <= _TINY_DEPTH


def _contiguous(tensor: torch.Tensor) -> int:
    """The contiguous one of the last two dimensions; of two, the longer."""
    if tensor.stride(1) == 1 and tensor.stride(2) == 1:
        return 2 if tensor.shape[2] >= tensor.shape[1] else 1
    return 2 if tensor.stride(2) == 1 else 1


def _pitches(tensor: torch.Tensor) -> tuple[int, int]:
    """The strides of rows and columns; of a single row or column, one that is aligned."""
    strides = [tensor.stride(1), tensor.stride(2)]
    for dim, other in ((1, 2), (2, 1)):
        if tensor.shape[dim] == 1 and tensor.stride(other) == 1:
            strides[dim - 1] = -(-tensor.shape[other] // 16) * 16
    return strides[0], strides[1]


def _is_aligned(tensor: torch.Tensor, size: int) -> bool:
    """Whether each row along the contiguous dimension starts at a multiple of `size` bytes."""
    dim = _contiguous(tensor)
    pitch = _pitches(tensor)[2 - dim]
    strides = (pitch, tensor.stride(0) if tensor.shape[0] > 1 else 0)
    return tensor.data_ptr() % size == 0 and all(s * tensor.element_size() % size == 0 for s in strides)


def _realigned(tensor: torch.Tensor) -> torch.Tensor:
    """A copy whose rows start at multiples of 16 bytes, contiguous along the same dimension."""
    if tensor.stride(0) == 0 and tensor.shape[0] > 1:  # one matrix for all of the batch
        return _realigned(tensor[:1]).expand(tensor.shape)
    by_rows = _contiguous(tensor) == 2
    rows = tensor if by_rows else tensor.transpose(1, 2)
    batch, count, length = rows.shape
    unit = 16 // tensor.element_size()
    room = torch.empty((batch, count, -(-length // unit) * unit), dtype=tensor.dtype, device=tensor.device)
    copy = room[:, :, :length].copy_(rows)
    return copy if by_rows else copy.transpose(1, 2)


def _types(a: torch.dtype, b: torch.dtype, result: torch.dtype) -> dict[str, Any]:
    """The compile key's part that every kernel of products has."""
    a_row, b_row, result_row = storage(a, float8=True), storage(b, float8=True), storage(result)
    accumulator = "int" if a_row.compute == "bool" else a_row.compute
    fused = "fma(x, y, z)" if accumulator in ("float", "double") else "(x) * (y) + (z)"
    return {
        "A_T": a_row.type,
        "B_T": b_row.type,
        "C_T": result_row.type,
        "LOAD_A(x)": a_row.load.format("x"),
        "LOAD_B(x)": b_row.load.format("x"),
        "LOAD_C(x)": result_row.load.format("x"),
        "C_BYTES": result.itemsize,
        "STORE_C(x)": result_row.store.format("x"),
        "ACC": accumulator,
        "MULTIPLY_ADD(x, y, z)": fused,
        **({"FLOAT8": 1} if a_row.module else {}),
    }


def _layout(
    a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, tile: tiles.Tile, depth: int, in_place: bool, taps: int = 1
) -> dict[str, Any]:
    """The compile key's other part: the tile, how operands lie, what happens at the edges.

    depth: of a part of K. taps: how many products are summed up.
    """
    m, n = a.shape[1], b.shape[2]
    a_along, b_along = _contiguous(a) == 2, _contiguous(b) == 1
    inside = m % tile.m == 0 and n % tile.n == 0 and a.shape[2] % depth == 0 and depth % tile.k == 0
    key = tile.variant | {"A_ALONG_K": int(a_along), "B_ALONG_K": int(b_along), "EDGE": int(not inside), "SHIFTED": 0}
    if tile.engine == PLAIN:
        vector = _is_vector(a, 4 * a.element_size()) and _is_vector(b, 4 * b.element_size())
        return key | {"VECTOR": int(vector), "C_RUN": _run(out, 4)}
    key |= {"A_E": _ELEMENTS[a.dtype], "B_E": _ELEMENTS[b.dtype], "ELEMENT_BYTES": a.element_size()}
    if tile.engine == SUBGROUP:
        vector = _is_vector(a, 16) and _is_vector(b, 16)
        return key | {"VECTOR": int(vector), "C_RUN": _run(out, 16 // max(2, out.element_size()))}
    unit = 16 // a.element_size()
    key["EDGE"] = 0
    if m % tile.m or n % tile.n:
        # A tile that starts earlier stores elements again: not where others have been made from them in place.
        starts = (a_along or m % unit == 0) and (b_along or n % unit == 0)
        shifted = m >= tile.m and n >= tile.n and starts and not in_place
        key |= {"SHIFTED": 1} if shifted else {"EDGE": 1}
    unroll, tail = tiles.unrolled(tile, depth, a.shape[2], taps)
    if out.dtype == torch.float16:
        key["STORE_C(x)"] = "half(x)"  # the conversion that the matrices have
    return key | {
        "UNROLL": 1 if key["EDGE"] else unroll,
        "TAIL": int(tail),
        "C_E": _RESULTS[out.dtype],
        "ROUNDED": int(out.dtype == torch.bfloat16),
        "C_RUN": _run(out, 16 // out.element_size()),
    }


def _run(out: torch.Tensor, most: int) -> int:
    """How many neighbours of a row can be stored as one vector everywhere: `most`, or what halving it leads to."""
    if _contiguous(out) != 2 or out.stride(2) != 1:
        return 1
    run = most
    while run > 1 and (out.shape[2] % run or not _is_aligned(out, run * out.element_size())):
        run //= 2
    return run


def _is_vector(tensor: torch.Tensor, size: int) -> bool:
    """Whether `size` bytes along the contiguous dimension can be one load everywhere."""
    dim = _contiguous(tensor)
    return _is_aligned(tensor, size) and tensor.shape[dim] * tensor.element_size() % size == 0


def _complex_product(
    a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, added: torch.Tensor | None, alpha: complex, beta: complex
) -> None:
    """`product` as four real ones."""
    a, b = a.resolve_conj(), b.resolve_conj()
    parts = [torch.empty(out.shape, dtype=out.dtype.to_real(), device=out.device) for _ in range(2)]
    for part, first, second, sign in ((parts[0], a.real, b.real, -1), (parts[1], a.real, b.imag, 1)):
        product(first, second, part)
        product(a.imag, b.imag if sign < 0 else b.real, part, part, sign, 1)
    result = torch.complex(*parts)
    if alpha != 1:
        result *= alpha
    if added is not None and beta != 0:
        result += beta * added
    out.copy_(result)


def summed_product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, terms: int = 0) -> None:
    """out (m, n) = the sum over the first dimension of a (outer, m, k) @ b (outer, k, n).

    As they lie, a product for each, where these take little memory; else in one inner dimension, of copies.
    terms: as in `product`.
    """
    if out.numel() == 0:
        return
    wide = summed_in(out.dtype)
    if a.shape[0] * out.numel() * wide.itemsize <= _SUM_BYTES:
        sums = torch.empty((a.shape[0], *out.shape), dtype=wide, device=out.device)
        product(a, b, sums, terms=terms)
        out.copy_(sums.sum(0))
        return
    left = a.transpose(0, 1).reshape(1, a.shape[1], -1)
    product(left, b.reshape(1, -1, b.shape[2]), out.unsqueeze(0), terms=terms)


# What is multiplied as something else --------------------------------------------------------------------------------

# The parts of a float32 as bfloat16: the nearest, and the nearest of what is left. An infinity has no rest, and what
# rounds to one starts from the largest number.
_NEAREST = "(maths::isinf(a) ? a : clamp(bf16_to_f32(f32_to_bf16(a)), -3.3895314e38f, 3.3895314e38f))"
_REST = f"(maths::isinf(a) ? 0.0f : a - {_NEAREST})"


def _conversion(a: torch.Tensor, b: torch.Tensor) -> Any:
    """How operands become ones that the matrix engines take: (a, b) -> (a, b), or None."""
    if a.dtype in _FLOAT8 and b.dtype in _FLOAT8 and engines.engine_for(torch.float16) != PLAIN:
        return lambda a, b: (a.half(), b.half())  # exact
    if a.dtype != torch.float32 or b.dtype != torch.float32 or engines.engine_for(torch.bfloat16) == PLAIN:
        return None
    return _reduced.get(torch.get_float32_matmul_precision())


def _in_one_part(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return a.bfloat16(), b.bfloat16()


def in_three_parts(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """bfloat16 operands, three times as long in K, whose product is that of a and b but for about 2^-16 of its terms.

    a = a1 + a2 and b = b1 + b2 in bfloat16: a1 b1 + a1 b2 + a2 b1. Henry, Tang and Heinecke, "Leveraging the bfloat16
    artificial intelligence datatype for higher-precision computations", ARITH 2019.
    """
    return _parts(a, 2, (_NEAREST, _NEAREST, _REST)), _parts(b, 1, (_NEAREST, _REST, _NEAREST))


_split_into: dict[tuple[str, ...], Pointwise] = {}


def _parts(matrix: torch.Tensor, dim: int, which: tuple[str, ...]) -> torch.Tensor:
    """The parts of float32 matrices side by side along `dim`, contiguous along the dimension that they are."""
    operator = _split_into.get(which)
    if operator is None:
        operator = _split_into[which] = Pointwise("bfloat16_parts", which, 1, promotion=Promotion.NONE)
    along = 2 if matrix.stride(2) == 1 else 1
    shape = list(matrix.shape)
    shape[dim] *= len(which)
    if along == 2:
        parts = torch.empty(shape, dtype=torch.bfloat16, device=matrix.device)
    else:
        shape[1], shape[2] = shape[2], shape[1]
        parts = torch.empty(shape, dtype=torch.bfloat16, device=matrix.device).transpose(1, 2)
    operator(parts.chunk(len(which), dim), (matrix,))
    return parts


_reduced = {"high": in_three_parts, "medium": _in_one_part}


# Overlaps ------------------------------------------------------------------------------------------------------------


def _overlaps(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether writing b while reading a could differ from reading first: same memory at other places."""
    same_place = a.data_ptr() == b.data_ptr() and a.stride() == b.stride()
    return not same_place and shares(a, b)


def shares(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are views of one allocation."""
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
