"""Makes the `mps` device exist where the installed entry point has not done it already."""

import torch

if not torch._C._has_mps:
    import portable_mps

    portable_mps.autoload()


def pytest_addoption(parser):
    parser.addoption("--opinfo", choices=("quick", "full"), default="quick", help="torch's operator database: how much")
