"""ATen operators, one file per family; importing a file registers its operators and does nothing else."""

from importlib import import_module

from portable_mps import _C, settings

FAMILIES = (
    "activation",
    "amp",
    "assertion",
    "attention",
    "binary",
    "convolution",
    "copy",
    "creation",
    "cross_entropy",
    "ctc",
    "distance",
    "embedding",
    "fake_quantize",
    "fft",
    "foreach",
    "grid_sampler",
    "indexing",
    "interpolation",
    "jagged",
    "linalg_exp",
    "linalg_factor",
    "linalg_ldl",
    "linalg_lstsq",
    "linalg_qr",
    "linalg_solve",
    "linalg_spectral",
    "loss",
    "margin",
    "matmul",
    "quantized",
    "random",
    "recurrent",
    "normalization",
    "optimizer",
    "pooling",
    "reduction",
    "rrelu",
    "softmax",
    "sampling",
    "scaled_mm",
    "scan",
    "scatter",
    "search",
    "segment",
    "selection",
    "shape",
    "sort",
    "sparse",
    "sparse_compressed",
    "sparse_products",
    "special",
    "transformer",
    "unary",
    "unique",
    "weight_only",
    "windows",
)

for _family in FAMILIES:
    import_module(f"portable_mps.ops.{_family}")

_C.set_replay_mode(settings.replay_mode())
