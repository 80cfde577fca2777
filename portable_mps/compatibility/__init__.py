"""What libraries, and torch's compiler, get wrong about this `mps` device, or lack for it: one row a mend.

A mend is applied to a module once that is imported.

No library is imported from here: a finder at the head of `sys.meta_path` waits for the rows' modules. (wrapt has such
hooks, but importing it costs each `import torch` 10 ms.)
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple


class Mend(NamedTuple):
    """What is done to a module once its own code has run.

    module is imported after torch itself, as nothing of ours waits before, or by torch: then it is mended at once.
    function is a file of this package and the function in it that takes the module.
    """

    module: str
    reason: str
    function: str


_LIGHTNING = "its accelerator asks for an ARM processor"
_TORCHVISION = "its operators have kernels for mps on a Mac alone"

_PROCESSES = "several processes are CUDA's matter"

_DEVICES = "its list of devices leaves mps out"
_ACCELERATE = "`accelerate env` names the processor as the GPU, or Apple"


def _of_lightning() -> list[Mend]:
    fabric = ("accelerators.mps", _LIGHTNING, "accept"), ("connector", _PROCESSES, "distribute")
    trainer = (
        ("accelerators.mps", _PROCESSES, "count_devices"),
        ("trainer.connectors.accelerator_connector", _PROCESSES, "distribute"),
    )
    both = ("strategies.ddp", _PROCESSES, "replicate"), ("plugins.precision.fsdp", _PROCESSES, "mix_precision")
    return [
        Mend(f"{name}.{module}", reason, f"lightning.{function}")
        for names, rows in (
            (("lightning.fabric", "lightning_fabric"), fabric),
            (("lightning.pytorch", "pytorch_lightning"), trainer),
        )
        for name in names
        for module, reason, function in (*rows, *both)
    ]


MENDS = (
    Mend("accelerate.commands.env", _ACCELERATE, "accelerate.name_the_adapter"),
    Mend("accelerate.state", "it trains on mps in one process alone", "accelerate.distribute"),
    *_of_lightning(),
    Mend("torch._dynamo.trace_rules", "operators of a device are not written in Python elsewhere", "inductor.prepare"),
    Mend("torch._subclasses.fake_impls", "it lays out Metal's convolutions", "inductor.lay_out_convolutions"),
    Mend("torch._inductor.config", "compiled code draws other random numbers than eager's", "inductor.draw_as_eager"),
    Mend("torch._inductor.codegen.mps", "its kernels are written in Metal", "inductor.generate_slang"),
    Mend("torch._inductor.lowering", "embeddings' gradients wait for atomics", "inductor.keep_embeddings"),
    Mend("torch._inductor.output_code", "it replays CUDA's launches alone", "inductor.replay_graphs"),
    Mend("torch._inductor.ir", "its guards on strides may not be evaluated", "inductor.compare_strides"),
    Mend("torch._inductor.kernel.flex.flex_attention", "its template is in Metal", "inductor.compose_flex_attention"),
    Mend("torch.nn.attention.flex_attention", "it refuses gradients", "inductor.differentiate_flex_attention"),
    Mend("torch.distributed.distributed_c10d", "it cannot copy gloo's options", "distributed.copy_options"),
    Mend("torch.distributed.fsdp._fully_shard._fsdp_collectives", _DEVICES, "distributed.gather_parameters"),
    Mend("torch.distributed.fsdp._fully_shard._fsdp_state", _DEVICES, "distributed.move_inputs"),
    Mend("torch.distributed.tensor", "attention is divided under CUDA's names", "sharded_attention.divide"),
    Mend(
        "torch.distributed.tensor.experimental._context_parallel._attention",
        "its rings are of CUDA's attention",
        "sharded_attention.pass_around",
    ),
    Mend("torch.distributed.fsdp.sharded_grad_scaler", _DEVICES, "distributed.scale_gradients"),
    Mend("torch.nn.modules.batchnorm", _DEVICES, "distributed.synchronize_batch_norm"),
    Mend(
        "torch.nn.parallel.distributed", "it compresses to bfloat16 with NCCL alone", "distributed.compress_to_bfloat16"
    ),
    Mend("torchvision.ops", _TORCHVISION, "torchvision.register"),
)


def installed() -> list[Mend]:
    """The rows whose library is installed here; imports none."""
    return [mend for mend in MENDS if importlib.util.find_spec(mend.module.partition(".")[0]) is not None]


def watch() -> None:
    """Have the mends applied to each module when it is imported, and now to those that are there."""
    for mend in MENDS:
        if mend.module in sys.modules:
            _apply(sys.modules[mend.module])
    sys.meta_path.insert(0, _Finder())


def _apply(module: ModuleType) -> None:
    for mend in MENDS:
        if mend.module == module.__name__:
            file, _, name = mend.function.partition(".")
            try:
                getattr(importlib.import_module(f"{__name__}.{file}"), name)(module)
            except Exception as error:  # another release than ours was written for must still be importable
                warnings.warn(
                    f"portable-mps could not mend {mend.module} ({mend.reason}): {error!r}", UserWarning, stacklevel=2
                )


class _Finder:
    """Leaves finding to the other finders, and puts a loader that applies the mends around theirs."""

    def __init__(self) -> None:
        self._awaited = {mend.module for mend in MENDS}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._awaited:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """The module's own loader, and the mends behind it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module is as if we had not been there: inspect, pickle and importlib.resources ask for these.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _apply(module)
