"""docs/metal.md, from what a run did."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from metal.results import Family, Results

# Why a kernel may not become Metal; anything else fails the run.
KNOWN: dict[str, str] = {}
# Tests that are not run, and why.
ELSEWHERE = {
    "compiled": "graphs: `make metal ARGS=tests/compiled` runs them by themselves",
    "distributed": "their dispatches are other processes'",
    "ecosystem": "libraries' scripts are processes of their own",
    "examples": "examples are processes of their own",
    "models": "`make metal ARGS=tests/models` runs them by themselves",
    "metal": "tests of this",
    "test_backends.py": "processes of their own, with kernels that slangpy compiles",
    "test_cache.py": "about the cache of what the driver's compiler makes",
    "test_compiling.py": "about how kernels are compiled for the driver",
    "test_docs.py": "about the documentation",
    "test_hidden.py": "processes of their own, with other features hidden",
    "test_shipping.py": "about the SPIR-V of wheels",
    "test_vendors.py": "about other compilers",
}
# Single tests, and why.
DESELECTED = {
    f"test_modules.py::{test}[{mode}nn.{module}]": "a gradient of 150, a sum of many: ours is as far "
    "from float64's as the CPU's is, each with its own rounding, and both together are 1.2 times the tolerance"
    for test, mode in (
        *(("test_forward_and_backward", mode) for mode in ("train-", "eval-")),
        *((test, "") for test in ("test_noncontiguous", "test_state_dict")),
    )
    for module in ("Conv3d", "LazyConv3d")
} | {
    "ops/test_opinfo.py::test_operator[matrix_exp-float32]": "a gradient that is 4e-5 off float64's, where the CPU's "
    "is 1.4e-4 off: together they are more than the tolerance"
}
DIFFERENCES = (
    ("a float32 is IEEE 754's: denormals are kept", "flushes them, unless told otherwise"),
    ("nothing is contracted, reassociated or approximated", "does all three with fast-math, which is its compiler's "
     "default; slangpy's Metal device decides that"),
    ("a division and a square root are rounded correctly", "may be off by an ulp or more"),
    ("a simdgroup's threads have turns, and wait for each other where they exchange values", "runs them in step, or "
     "nearly"),
    ("workgroups run one after another, in the order that is asked for", "runs them side by side"),
    ("a thread changes only at barriers, so that relaxed atomics look ordered", "reorders other accesses around them"),
    ("a weak compare-and-exchange fails one time in eight for no reason", "may, and seldom does"),
    ("an integer divided by zero gives the dividend, and the remainder zero", "gives something"),
    ("an out-of-range float becomes the nearest integer, NaN zero", "does so on Apple's GPUs, without a promise"),
    ("workgroup memory begins as NaNs, private memory with a pattern", "leaves what was there"),
    ("a workgroup of 1,024 threads always fits", "allows fewer where a kernel needs many registers"),
    ("an address is the host's", "needs buffers to be made resident before a kernel follows a pointer to them"),
    ("an element of a simdgroup's matrix is summed in float, in the order of K", "does not say how"),
)  # fmt: skip


_WITH_BARRIERS = (
    *("cross_entropy", "ctc", "distance", "fft", "indexing", "linalg_factor", "linalg_qr", "linalg_solve", "matmul"),
    *("normalization", "reduction", "scan", "selection", "softmax", "sort"),
)
_TILES = ("matmul", "convolution", "attention", "attention_engines")
# Runs of a part, with the plugin's options for it: by hand, order and watch can have any tests.
FURTHER = {
    "simdgroup matrices": (["--metal-matrices"], _TILES),
    "watched": (["--metal-watch"], _WITH_BARRIERS),
    "reversed": (["--metal-order=reversed"], (*_WITH_BARRIERS, "linalg_spectral", *_TILES[1:])),
    "random": (["--metal-order=random"], (*_WITH_BARRIERS, *_TILES[1:])),
}
_FURTHER = (
    "With matrices, products, convolutions and attention multiply 8x8 elements a simdgroup, 32 threads in step: of "
    "float16 and float32 as Slang writes it, of bfloat16 by hand, which Slang refuses (kernels/lib/fragments.slangh). "
    "Attention in float32 keeps to arithmetic of single threads. "
    "A watch knows every access of a kernel: two without a barrier between them, of which one writes, and what lies "
    "outside of the memory that the dispatch says that it reads or writes, fail the test. A read is over at any "
    "barrier; a write is seen past one that names its memory. Which value stays where `index_put` has an index twice "
    "is torch's to leave open."
)
_WHAT = (
    "`make metal` wrote this. **No Apple machine was at hand, and nothing here ran on one.** The tests run with "
    "each dispatch executed as the Metal text that Slang emits for its kernel. The text is compiled as C++ for the "
    "CPU, over a stand-in for Metal's library ([tests/metal/include](../tests/metal/include)) that follows the "
    "Metal Shading Language Specification; on Mesa's software driver a tensor's address is the host's own. The "
    "driver is left with kernels that do nothing, so that what it would do cannot be mistaken for what they do. "
    "float64 and 64-bit atomics are hidden, which Metal lacks, and workgroup memory is 32 KiB."
)


@dataclass
class Run:
    """One call of pytest; status is its exit status."""

    name: str
    done: Results
    order: str
    workers: int
    seconds: float
    status: int

    @property
    def dispatches(self) -> int:
        return sum(each.dispatches for each in self.done.families.values())

    @property
    def on_driver(self) -> Counter[str]:
        return sum((each.on_driver for each in self.done.families.values()), Counter())

    @property
    def outcomes(self) -> Counter[str]:
        return sum((each.outcomes for each in self.done.families.values()), Counter())

    @property
    def refused(self) -> Counter[str]:
        """Variants that did not become Metal, by the reason."""
        return Counter(each.refused for each in self.done.variants.values() if each.refused)

    @property
    def unknown(self) -> list[str]:
        return [reason for reason in self.refused if not any(re.search(known, reason) for known in KNOWN)]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "none"


def summary(run: Run) -> str:
    ran = run.dispatches - run.on_driver.total()
    lines = [
        f"{run.name}: {len(run.done.variants)} kernels, {run.refused.total()} refused; "
        f"{ran:,} of {run.dispatches:,} dispatches ran as Metal ({_share(ran, run.dispatches)}), "
        f"{run.order} order, {run.seconds:.0f} s",
        *(f"not on the list of reasons: {reason}" for reason in run.unknown),
        *(f"found {count} times: {fault}" for fault, count in run.done.faults.most_common(20)),
    ]
    return "\n".join(lines)


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return [*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows), ""]


def text(run: Run, *further: Run) -> str:
    ran = run.dispatches - run.on_driver.total()
    lines = [
        "# Kernels as Metal",
        "",
        _WHAT,
        "",
        *_table(
            ("", ""),
            (
                ("kernels (a variant each)", f"{len(run.done.variants):,}"),
                ("of them emitted, compiled and run", f"{len(run.done.variants) - run.refused.total():,}"),
                ("dispatches", f"{run.dispatches:,}"),
                ("of them run as Metal", f"{ran:,} ({_share(ran, run.dispatches)})"),
                ("tests", _outcomes(run)),
                ("faults that the stand-in found", run.done.faults.total()),
                ("order of threads and workgroups", run.order),
                ("time", f"{run.seconds / 60:.0f} minutes, {run.workers} processes"),
            ),
        ),
        *_refused(run),
        *_further(further),
        *_families(run.done.families),
        *_skips(run),
        "## Not run",
        "",
        *_table(("tests", "why"), ((f"`{path}`", why) for path, why in (ELSEWHERE | DESELECTED).items())),
        "Tests elsewhere that start a process of their own have its dispatches on the driver, uncounted.",
        "",
        "## What real hardware does otherwise",
        "",
        *_table(("the stand-in", "hardware"), DIFFERENCES),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _outcomes(run: Run) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in sorted(run.outcomes.items()))


def _further(runs: Iterable[Run]) -> list[str]:
    rows = [
        (run.name, ", ".join(FURTHER[run.name][1]), len(run.done.variants), run.done.matrices, f"{run.dispatches:,}",
         _outcomes(run), run.done.faults.total(), f"{run.seconds:.0f}")
        for run in runs
    ]  # fmt: skip
    head = ("run", "tests of", "kernels", "by matrices", "dispatches", "tests", "faults", "seconds")
    lines = ["## Some families again", "", *_table(head, rows)]
    return [*lines, _FURTHER, ""] if rows else []


def _refused(run: Run) -> list[str]:
    rows = [
        (count, reason.replace("|", "\\|"), next((why for known, why in KNOWN.items() if re.search(known, reason)), ""))
        for reason, count in run.refused.most_common()
    ]
    lines = ["## What did not become Metal", ""]
    lines += _table(("kernels", "the compiler's words", "why"), rows) if rows else ["Every kernel did.", ""]
    if run.on_driver:
        lines += _table(("dispatches on the driver", "why"), ((n, why) for why, n in run.on_driver.most_common()))
    return lines


def _families(families: dict[str, Family]) -> list[str]:
    rows = [
        (
            name,
            len(each.variants),
            f"{each.dispatches:,}",
            f"{each.dispatches - each.on_driver.total():,}",
            each.outcomes["passed"],
            each.outcomes["skipped"],
            each.outcomes["failed"],
            f"{each.seconds:.0f}",
        )
        for name, each in sorted(families.items())
        if each.outcomes
    ]
    head = ("tests of", "kernels first met", "dispatches", "as Metal", "passed", "skipped", "failed", "seconds")
    return ["## By family", "", *_table(head, rows)]


def _skips(run: Run) -> list[str]:
    """Numbers and names in reasons are left out, so that alike ones count together."""
    reasons: Counter[str] = Counter()
    for reason, count in run.done.skips.items():
        reasons[reason.split(": ")[0] if reason.startswith("needs ") else reason] += count
    return ["## Skipped tests", "", *_table(("tests", "why"), ((n, why) for why, n in reasons.most_common()))]
