"""ATen operators, one file per family; importing a file registers its operators and does nothing else."""

from importlib import import_module

FAMILIES = (
    "activation",
    "amp",
    "assertion",
    "attention",
    "binary",
    "convolution",
    "copy",
    "creation",
    "ctc",
    "distance",
    "embedding",
    "fft",
    "foreach",
    "grid_sampler",
    "indexing",
    "interpolation",
    "linalg_factor",
    "linalg_solve",
    "loss",
    "margin",
    "matmul",
    "random",
    "normalization",
    "optimizer",
    "pooling",
    "reduction",
    "rrelu",
    "softmax",
    "sampling",
    "scan",
    "scatter",
    "search",
    "selection",
    "shape",
    "sort",
    "special",
    "unary",
    "unique",
)

for _family in FAMILIES:
    import_module(f"portable_mps.ops.{_family}")
