"""The one list of what is expected to fail: failures.json, a row for an operator, a check, dtypes and the reason.

Rows of operators are written by the sweep (`--failures`) and read by tests/ops/test_opinfo.py. Rows of modules and
optimisers name a test as their check and are written by hand.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).with_name("failures.json")

# Why a difference stays, where that is known: names as in op_db, with wildcards, and a check, or None for all.
_FORMULA = "torch's formula of the gradient rounds between its steps, on every device"
_LAPACK = "with NaN or infinities in a matrix LAPACK's results depend on its order of steps, ours on another"
_FACTORISATIONS = "*cholesky* geqrf *qr* *lu* *svd* pinverse linalg.* norm.nuc ormqr matrix_exp"
_PARTS = "parts of complex numbers that are not finite, or overflow, meet in another order of steps"
_OF_PARTS = (
    "*mul* add*mm* addmv mv matmul nn.functional.linear addbmm cross cov tensordot *pow* *div* reciprocal ldexp cumsum "
    "log1p logcumsumexp istft logdet renorm a*sin* a*cos* a*tan* triangular_solve *normalize masked.var masked.std "
    "corrcoef"
)
_WHY = (
    ("ldexp", "grad", _FORMULA),
    ("nn.functional.normalize", "grad", _FORMULA),
    ("renorm", "grad", _FORMULA),
    ("special.i0e", "grad", _FORMULA),
    ("linalg.vector_norm", "grad", _FORMULA),
    ("norm", "grad", _FORMULA),
    ("nn.functional.linear_cross_entropy*", None, "torch composes it in another way for `mps`, and rounds in between"),
    ("pow", "grad", "terms of 46,000 cancel to 900"),
    ("fft.hfft2", None, "values of 390 cancel to 1"),
    ("linalg.lstsq*", "grad", "torch's formula cancels; the CPU is as far from float64"),
    ("*polygamma*", None, "trigamma has poles at the negative integers, which the CPU's reflection misses"),
    ("special.bessel_*", None, "the CPU is up to 7e-7 off in float64; mpmath agrees with us to 1e-15"),
    ("narrow_copy", "out", "the CPU ignores the output's strides"),
    ("torch._scaled_mm", "out", "the CPU scales operands, we the sum: float32's last digit in an output of integers"),
    ("nn.functional.multi_head_attention_forward", None, "terms of more than a thousand cancel each other"),
    (
        "nn.functional.scaled_dot_product_attention",
        "special",
        "with dropout the CPU composes it, and rounds to infinity in between",
    ),
    (
        "nn.functional.scaled_dot_product_attention",
        "strides",
        "the layout is that of torch's function of tensors without memory, which compiled graphs rely on",
    ),
    ("*lu*", "strides", "torch makes the factors row-major for `mps`"),
    ("linalg.solve*", "strides", "torch makes the result row-major for `mps`"),
    ("linalg.lstsq*", "strides", "the CPU returns a part of LAPACK's larger buffer"),
    ("nn.functional.conv_transpose3d", "strides", "the CPU's choice between its libraries, which depends on threads"),
    *((name, "special", _PARTS) for name in _OF_PARTS.split()),
    ("to_sparse", "special", "the CPU multiplies complex numbers by one"),
    ("nn.functional.binary_cross_entropy_with_logits", "special", "an infinite target, beside a weight"),
    ("special.zeta", "special", "an infinite exponent of a base below zero"),
    ("digamma", "special", "next to overflow"),
    ("torch._scaled_mm*", "special", "what is too large for 8 bits is their largest number, as on torch's GPUs"),
    ("torch._scaled_mm*", "vmap", "judged with flip, which the CPU lacks"),
    ("as_strided_scatter", "mixed", "into a tensor of the CPU, whose result is there"),
    ("ldexp", "strides", "the CPU's result is a product, with a power that is laid out anew"),
    ("*pixel_shuffle", "strides", "of a factor of one torch's composition copies the view as it lies"),
    ("norm*", "results", "torch.norm has another path for `mps`, as on a Mac, which refuses a dtype"),
    ("var", "results", "the CPU casts what it reduces over all dimensions, and nothing else"),
    ("std", "results", "the CPU casts what it reduces over all dimensions, and nothing else"),
    ("lerp", "results", "no cast of the result"),
    *((name, "results", "complex32 is summed, as by torch's GPUs") for name in ("mean", "nansum", "masked.sum")),
    ("linalg.matrix_rank*", "results", "complex32 is summed, as by torch's GPUs"),
    ("masked.logaddexp", "results", "an infinity as uint32, which C++ leaves open"),
    ("fft.*", "results", "a result in 8 bits rounds the last digit of another"),
    ("linalg.lstsq*", "results", "the CPU fails an assertion on the rank's dtype"),
    ("linalg.eigvals", "special", "torch's CPU may crash on what is not finite; here it raises"),
    ("item", "special", "the judge compares Python's complex numbers, of which NaN differs from itself"),
    ("linalg.*", "overlap", "the CPU refuses where its result is copied, and writes through where it is not"),
    ("cholesky_inverse", "overlap", "the CPU refuses where its result is copied"),
    ("ormqr", "overlap", "the CPU refuses where its result is copied"),
    ("histc", "overlap", "refused, where the CPU writes one element after another"),
    ("multinomial", "overlap", "refused, where the CPU writes one element after another"),
    ("nn.functional.gelu", "overlap", "the CPU's library cannot describe the memory"),
    ("ldexp", "overlap", "the CPU takes the power first"),
    ("gather", "mixed", "nothing is gathered, and the index not looked at"),
    *(
        (name, "mixed", "there is nothing to compute, and the tensor is not looked at")
        for name in ("mm", "linalg.pinv.singular", "nn.functional.l*", "nn.functional.rms_norm", "nn.functional.prelu")
    ),
    *(
        (name, "dtypes", "half types work: they are computed in float32")
        for name in ("cdist", "polar", "nn.functional.pdist", "histogram*")
    ),
    ("index_reduce*", "dtypes", "the CPU has a path without a kernel for a dimension of few slices"),
    ("nn.functional.max_pool1d", "dtypes", "integers work, as in two dimensions"),
    *((name, "dtypes", "judged with gather, which the CPU lacks") for name in ("sort", "argsort")),
    ("*", "dtypes", "of complex32, 8-bit floats and wide unsigned integers, or where nothing is computed"),
    ("unique*", "strides", "the CPU returns a transposed view"),
    ("nn.functional.conv*", "special", "taps on padding are left out; the CPU multiplies them with zero"),
    ("mode", "special", "the CPU's sort leaves NaN where it stands"),
    ("unique", "special", "the CPU's sort of rows leaves NaN where it stands"),
    ("unique_consecutive", "special", "the CPU's sort of rows leaves NaN where it stands"),
    ("cumprod", "special", "partial products are multiplied in another order"),
    ("*prod", "special", "factors are multiplied in another order, and overflow elsewhere"),
    *(
        (name, "special", "large numbers cancel in another order")
        for name in ("sum", "mean", "nansum", "nanmean", "masked.sum", "masked.mean", "*adaptive_avg_pool*")
    ),
    ("fft.*", "special", "infinities and NaN spread through a transform as its steps have it"),
    ("stft", "special", "infinities and NaN spread through a transform as its steps have it"),
    ("cdist", "special", "the CPU's maximum loses a NaN"),
    ("igamma*", "special", "the CPU looks at the other argument before it finds a NaN"),
    ("hist*", "special", "the range is too narrow, or too wide, for numbers of the dtype to divide it"),
    ("*grid_sample*", "special", "places of 1e37: the CPU's conversion to an integer overflows"),
    ("_upsample_bilinear2d_aa", "special", "taps of weight zero; the CPU leaves out a dimension that is not scaled"),
    ("special.*polynomial*", "special", "the CPU converts a NaN that is the degree to an integer"),
    ("*hardswish", "special", "the CPU's product overflows before it is divided"),
    ("addcdiv", "special", "the CPU's product overflows before it is divided"),
    ("l*space.tensor_overload", "special", "the ends are read from the device as numbers, which torch checks no more"),
    ("masked.cumprod", "special", "partial products are multiplied in another order"),
    *((name, "special", _LAPACK) for name in _FACTORISATIONS.split()),
    ("*bessel_[jy]*", "special", "the limit at infinity, which the CPU's formula misses"),
    ("*i[01]", "special", "the limit at infinity, which the CPU's formula misses"),
    *(
        (name, "special", "alpha times the largest number overflows; the CPU's vectorised code fuses product and sum")
        for name in ("add", "sub", "rsub")
    ),
    ("lerp", "special", "the difference of the ends of the range overflows; the CPU's vectorised code fuses it"),
)


@dataclass(frozen=True)
class Failure:
    operator: str
    check: str
    dtypes: tuple[str, ...]
    quick: bool
    """Whether the quick part shows it, or only samples beyond."""
    reason: str

    @property
    def is_by_hand(self) -> bool:
        return self.check.startswith("test_")


def load(path: Path = PATH) -> dict[tuple[str, str, str], Failure]:
    """Expected failures by (operator, dtype, check)."""
    rows = [Failure(**{**row, "dtypes": tuple(row["dtypes"])}) for row in json.loads(path.read_text())]
    return {(row.operator, dtype, row.check): row for row in rows for dtype in row.dtypes}


def marks(parameter: str) -> Any:
    """A fixture for a test file: tests whose `parameter` has a row are expected to fail, and only they."""
    listed = load()

    @pytest.fixture(autouse=True)
    def as_listed(request: pytest.FixtureRequest) -> None:
        name = request.node.callspec.params[parameter].name
        row = listed.get((name, "-", request.node.originalname))
        if row is not None:
            request.applymarker(pytest.mark.xfail(reason=row.reason, strict=True))

    return as_listed


def write(verdicts: Iterable[dict[str, Any]], path: Path = PATH) -> None:
    """One row a line for the failing verdicts; dtypes that fail alike share a row, with the worst of their reasons."""
    alike: defaultdict[tuple[str, str, bool, str], list[dict[str, Any]]] = defaultdict(list)
    for verdict in verdicts:
        if verdict["status"] == "fail":
            kind = "a wrong value" if verdict["ratio"] else verdict["error"]
            alike[verdict["op"], verdict["check"], verdict["failed_quick"] > 0, kind].append(verdict)
    rows = []
    for (operator, check, quick, _), group in sorted(alike.items()):
        worst = max(group, key=lambda v: v["ratio"] or 0.0)
        dtypes = tuple(sorted(v["dtype"] for v in group))
        rows.append(Failure(operator, check, dtypes, quick, _reason(worst)))
    by_hand = {row for row in load(path).values() if row.is_by_hand} if path.exists() else set()
    rows += sorted(by_hand, key=lambda row: (row.operator, row.check))
    lines = ",\n".join(json.dumps(asdict(row)) for row in rows)
    path.write_text(f"[\n{lines}\n]\n")


def _reason(verdict: dict[str, Any]) -> str:
    share = f"{verdict['failed']} of {verdict['judged']} samples: " if verdict["failed"] < verdict["judged"] else ""
    # A reason for all checks is one for values.
    checks = (None, verdict["check"]) if verdict["ratio"] else (verdict["check"],)
    why = next((w for op, check, w in _WHY if fnmatch(verdict["op"], op) and check in checks), None)
    if why:
        share = f"{why}; {share}"
    return share + verdict["error"].removeprefix("AssertionError: ").removeprefix("Mismatch: ")
