"""Makes the `mps` device exist where the installed entry point has not done it already."""

import torch

if not torch._C._has_mps:
    import portable_mps

    portable_mps.autoload()
