"""The command line: portable-mps info | doctor."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; the exit status."""
    parser = argparse.ArgumentParser(prog="portable-mps", description="PyTorch's mps device on any GPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="adapters, driver, features, torch, and whether mps is active here")
    commands.add_parser("doctor", help="test the adapter and say what is wrong")
    chosen = parser.parse_args(arguments).command
    if chosen == "info":
        from portable_mps import info

        print(info.report())
        return 0
    # The test is of the device: it runs also where torch has another accelerator.
    os.environ.setdefault("PORTABLE_MPS", "1")
    from portable_mps import doctor

    return doctor.run()


if __name__ == "__main__":
    sys.exit(main())
