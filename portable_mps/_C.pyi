"""The C++ side as Python sees it; csrc/module.cpp defines it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

Groups = tuple[int, int, int]
Ranges = Sequence[tuple[int, int]]
Tensors = Sequence[torch.Tensor]

class StreamLock:
    """Recursive; a thread that waits for it lets go of the GIL."""

    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...

class Kernel:
    """A runtime.kernel.Pipeline, made ready for a recorder."""

    @property
    def compilation(self) -> int:
        """What tells a kernel from others where it is dispatched; 0 where slangpy records it."""

class Batch:
    def dispatches(
        self,
    ) -> list[tuple[int, bytes, tuple[int, int, int], list[tuple[int, int]], list[tuple[int, int]]]]:
        """Of each: its kernel's `compilation`, parameters and workgroups, and the addresses that it reads and writes,
        where the recorder was `watched`."""

    def part(self, begin: int, end: int) -> Batch: ...

class FrontEndOptions:
    """See csrc/front_end.h."""

    def __init__(
        self,
        create_global_session: int,
        include: str,
        profile: str,
        floating_point_mode: int,
        format: int,
        entry_point_by_index: int = 0,
        thread_group_size: int = 0,
    ) -> None: ...

class FrontEnd:
    """See csrc/front_end.h. For one thread."""

    def __init__(self, options: FrontEndOptions) -> None: ...
    def compile(self, text: str, entry: str) -> bytes:
        """The code; RuntimeError with the compiler's words. Lets go of the GIL."""

    @property
    def workgroup(self) -> list[int]:
        """How many threads a workgroup has along each axis, of what was compiled last."""

    def keep(self, text: str, entry: str, file: str) -> None:
        """Compile, and write SPIR-V as a Compiler reads it. Lets go of the GIL."""

class Compiler:
    """See csrc/compiler.h."""

    def __init__(
        self,
        device: int,
        functions: dict[str, int],
        options: FrontEndOptions,
        kept: str,
        shipped: str,
        threads: int,
    ) -> None: ...
    @property
    def unfinished(self) -> int: ...
    def times(self) -> list[tuple[str, float, float]]:
        """Of each kernel that has its pipeline: its name, seconds in Slang, and seconds in the driver."""

    def stop(self) -> None: ...

class Recorder:
    """See csrc/recorder.h."""

    direct: bool
    watched: bool
    def __init__(self, stream: Any, device: int, functions: dict[str, int]) -> None: ...
    def kernel(self, pipeline: Any, handle: int, push_bytes: int) -> Kernel: ...
    def compile(
        self,
        pipeline: Any,
        compiler: Compiler,
        name: str,
        text: str,
        entry: str,
        key: str,
        parameter_bytes: int,
        in_buffer: bool,
    ) -> Kernel: ...
    def barrier(self, command_buffer: int) -> None:
        """Order all that comes before it before all that comes after."""

    def use_parameter_buffer(self, buffer: int, set_layout: int, set: int, alignment: int) -> None: ...
    def launch(
        self,
        kernel: Kernel,
        parameters: bytes,
        groups: Groups,
        reads: Tensors,
        writes: Tensors,
        addresses: Sequence[int],
        draws: Sequence[int] = (),
    ) -> None:
        """addresses, draws: where in the parameters these are, in bytes; zeros are none. A draw is a seed and, behind
        it, its counter.
        """
    def launch_on_ranges(
        self, kernel: Kernel, parameters: bytes, groups: Groups, reads: Ranges, writes: Ranges
    ) -> None: ...
    def access(self, reads: Ranges, writes: Ranges) -> bool:
        """Whether a barrier must come first; remembers the accesses. Hold the lock until it is recorded."""
    def access_tensors(self, reads: Tensors, writes: Tensors) -> bool: ...
    def reset_hazards(self) -> None: ...
    def take(self) -> Batch | None: ...
    def prepare(self, batch: Batch) -> str:
        """Waits for its kernels; what the compiler said where one has failed, or nothing."""

    def replay(self, batch: Batch, command_buffer: int) -> None: ...
    @property
    def pending(self) -> int: ...
    @property
    def is_compiling(self) -> bool: ...
    @property
    def lock(self) -> StreamLock: ...
    @property
    def dispatched(self) -> int: ...

def set_recorder(recorder: Recorder | None) -> None: ...
def is_capturing() -> bool:
    """Whether what is dispatched is kept for a torch.accelerator.Graph."""

def pause_capture(paused: bool) -> None:
    """Whether what this thread does is meanwhile done at once."""

def keep_in_capture(tensor: torch.Tensor) -> None:
    """Have it live as long as what is captured."""

class ReplayedGraph:
    """A compiled graph, whose second call with tensors alike is recorded and whose later ones are replayed.

    function takes a list of tensors and numbers, which it empties, and returns a tuple of such. refused is called once,
    with the reason, where it turns out that calls cannot be replayed.
    """

    def __init__(
        self, function: Callable[[list[Any]], Sequence[Any]], refused: Callable[[str], None] | None
    ) -> None: ...
    def __call__(self, inputs: list[Any]) -> Sequence[Any]: ...

class GraphKernel:
    """See csrc/graph_kernel.cpp."""

    def __init__(
        self,
        kernel: Kernel,
        access: str,
        numbers: str,
        behind: bytes,
        may_report: bool,
        most_turns: int,
        name: str,
    ) -> None: ...
    def __call__(self, *arguments: Any) -> None: ...

class PointwiseKernels:
    """See csrc/pointwise.h."""

    def __init__(
        self,
        formats: str,
        promotion: int,
        check: int,
        unroll: bool,
        compile: Callable[[int, int, int, int], Kernel],
        check_empty: Callable[[int, int], None],
    ) -> None: ...
    def run(
        self,
        outputs: tuple[torch.Tensor | None, ...],
        inputs: tuple[torch.Tensor | float, ...],
        scalars: tuple[float, ...],
    ) -> list[torch.Tensor]: ...

def take_kernel(functionality: str, name: str) -> None:
    """The CPU's kernel for ours; see dispatch/functionality.py."""

def implement_kernel(functionality: str, name: str, function: Callable[..., Any]) -> None: ...
def quantized_per_tensor(integers: torch.Tensor, scale: float, zero_point: int) -> torch.Tensor:
    """These integers as a quantised tensor, which shares their memory."""

def quantized_per_channel(
    integers: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, axis: int
) -> torch.Tensor: ...
def quantized_like(integers: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """With the scale and zero point of a quantised tensor."""

def quantized_integers(quantized: torch.Tensor) -> torch.Tensor:
    """A quantised tensor's memory, on the CPU or here."""

def take_quantizer(quantized: torch.Tensor, other: torch.Tensor) -> None: ...
def implement_replayed(name: str, function: Callable[..., Any]) -> None:
    """Make `function` the kernel of ATen operator `name`, calls of which can be replayed (csrc/replay.h)."""

def set_cross_entropy(function: Callable[..., torch.Tensor]) -> None:
    """What csrc/cross_entropy.cpp calls where the loss is ours: (scores, target, reduction, ignore_index)."""

def arm_errors() -> None:
    """A kernel is about to run that may report an error; replays of the call that records it are, too."""

def disarm_errors() -> bool:
    """Whether one was since the last time."""

def forget_replays() -> None:
    """What operators dispatch has changed: record them anew."""

def set_replay_mode(mode: int) -> None:
    """0: never; 1: from the third call on; 2, for tests: also the first, at once, where nothing is read and written."""

def register_pointwise(
    name: str, kernels: PointwiseKernels, outputs: list[int], inputs: list[int], scalars: list[int]
) -> None: ...
def allocated_memory() -> int:
    """Bytes in live tensors."""

def driver_memory() -> int:
    """Bytes taken from the driver."""

def allocator_address() -> int: ...
def empty_cache() -> None: ...
def resize_storage(storage: torch.UntypedStorage, bytes: int) -> None: ...
def set_memory_ratio(ratio: float) -> None: ...
def set_default_memory_ratio(ratio: float) -> None:
    """For a process that has not set one."""

def default_generator() -> torch.Generator: ...
def reserve_philox(generator: torch.Generator | None, counters: int) -> tuple[int, int]: ...
def drawn_numbers(seed: int, counter: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as whole numbers on the CPU, from 2^63 on below zero, which replays know for what they are."""

def empty_like_each(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """torch.empty_like of each."""

def lie_alike(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether elements at one place of a shape are at one place in memory in all, and all are dense on the device."""

class ListTables:
    """See csrc/lists.cpp; dispatch/lists.py says what is returned."""

    def of(
        self, lists: Sequence[Sequence[torch.Tensor]], aside: int
    ) -> tuple[torch.Tensor, tuple[int, int, int], bool] | None: ...
    def joining(
        self, parts: Sequence[torch.Tensor], dim: int, out: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[int, int, int], bool, int, int] | None: ...

def prepare_worker() -> None:
    """Make what wait_for_worker runs, once; see runtime/workers.py."""

def wait_for_worker() -> None:
    """Returns when autograd's worker has freed all that it was given before. Nothing where nothing was prepared."""
