"""The command line: portable-mps info | doctor | test | demo | profile | cache | tune."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; the exit status."""
    parser = argparse.ArgumentParser(prog="portable-mps", description="PyTorch's mps device on any GPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="adapters, driver, features, torch, and whether mps is active here")
    doctor = commands.add_parser("doctor", help="test the adapter and say what is wrong")
    words = "write it down, too, as a page of Markdown to fill in and send: for adapters and Macs that nobody has tried"
    doctor.add_argument("--page", type=Path, metavar="FILE", help=words)
    commands.add_parser("test", help="compare operators, training and compiling with the CPU, in about two minutes")
    demo = commands.add_parser("demo", help="train a network on handwritten digits on the mps device")
    demo.add_argument("arguments", nargs=argparse.REMAINDER, help="of examples/digits.py")
    profile = commands.add_parser("profile", help="run a script and show the device's time by kernel")
    profile.add_argument("--trace", type=Path, metavar="FILE", help="a trace to write, which Perfetto opens")
    words = "torch's operators in the trace too, which slows the script down"
    profile.add_argument("--operators", action="store_true", help=words)
    words = "instead: what each kernel took to compile, and how many had not to be"
    profile.add_argument("--compile", action="store_true", help=words)
    profile.add_argument("--rows", type=int, default=15, help="kernels and gaps to print (default 15)")
    profile.add_argument("script", type=Path)
    profile.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's own")
    cache = commands.add_parser("cache", help="show what is kept of compiled kernels, forget it, or fill it")
    actions = cache.add_subparsers(dest="action", metavar="{empty,warm}")
    actions.add_parser("empty", help="forget every compiled kernel, while no script runs")
    warm = actions.add_parser("warm", help="run a script, so that its kernels are kept")
    warm.add_argument("script", type=Path)
    warm.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's own")
    tune = commands.add_parser("tune", help="measure the tiles of matrix products, and remember the fastest")
    tune.add_argument("shapes", nargs="*", metavar="MxNxK", help="of the products (default: a few common ones)")
    tune.add_argument("--dtype", action="append", default=[], help="float32, float16 or bfloat16 (default: all)")
    tune.add_argument("--warmup", type=float, default=0.35, help="seconds before each measurement (default 0.35)")
    tune.add_argument("--time", type=float, default=0.1, help="seconds of each measurement (default 0.1)")
    given = list(sys.argv[1:] if arguments is None else arguments)
    # argparse takes a remainder that begins with an option for its own.
    own = given[:1] if given[:1] == ["demo"] and not {"-h", "--help"}.intersection(given) else given
    options = parser.parse_args(own)
    if options.command == "info":
        from portable_mps import info

        print(info.report())
        return 0
    if options.command == "cache" and options.action != "warm":
        return _cache(options.action)
    # What runs from here on is for the device: also where torch has another accelerator.
    os.environ.setdefault("PORTABLE_MPS", "1")
    if options.command == "demo":
        return _demo(demo, given[1:])
    if options.command == "test":
        from portable_mps import selftest

        return selftest.run()
    if options.command == "profile":
        return _profile(profile, options)
    if options.command == "cache":
        return _warm(warm, options)
    if options.command == "tune":
        from portable_mps import tune as tuning

        return tuning.run(options.shapes, options.dtype, options.warmup, options.time)
    return _doctor(doctor, options.page)


def _check_writable(parser: argparse.ArgumentParser, option: str, path: Path | None) -> None:
    """Before the work that the file is for."""
    if path is not None:
        try:
            path.open("w").close()
        except OSError as error:
            parser.error(f"{option}: {error}")


def _doctor(parser: argparse.ArgumentParser, page: Path | None) -> int:
    _check_writable(parser, "--page", page)
    from portable_mps import doctor

    return doctor.run(page)


def _demo(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    missing = [name for name in ("matplotlib", "sklearn", "tqdm") if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"it needs {', '.join(missing)}: pip install matplotlib scikit-learn tqdm")
    package = Path(__file__).parent
    folders = package / "examples", package.parent / "examples"  # of a wheel, of a checkout
    from portable_mps import profile

    return profile.run_script(next(path for path in folders if path.is_dir()) / "digits.py", arguments)


def _cache(action: str | None) -> int:
    from portable_mps.runtime import cache

    print(f"{cache.empty() / 1e6:.1f} MB are free again" if action == "empty" else cache.report())
    return 0


def _warm(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if not options.script.is_file():
        parser.error(f"there is no script {options.script}")
    from portable_mps import profile
    from portable_mps.runtime import cache

    before = sum(count for count, _ in cache.kernels().values())
    status = profile.run_script(options.script, options.arguments)
    profile.wait_for_kernels()
    now = sum(count for count, _ in cache.kernels().values())
    sys.stdout.flush()
    print(f"portable-mps: {now - before} kernels more are kept, {now} in all")
    return status


def _profile(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """What can be told to be wrong before the script has run is said before."""
    if not options.script.is_file():
        parser.error(f"there is no script {options.script}")
    if options.operators and options.trace is None:
        parser.error("--operators: only a trace shows them; name it with --trace FILE")
    if options.compile and options.trace is not None:
        parser.error("--compile: there is no trace of it")
    _check_writable(parser, "--trace", options.trace)
    from portable_mps import profile

    if options.compile:
        return profile.run_compiling(options.script, options.arguments, max(1, options.rows))
    return profile.run(options.script, options.arguments, options.trace, options.operators, max(1, options.rows))


if __name__ == "__main__":
    sys.exit(main())
