"""Builds `portable_mps._C` from csrc/ against the torch that is installed, and says of a wheel which torch it is for.

Everything else is in pyproject.toml.
"""

import ast
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import find_packages, setup

WINDOWS = sys.platform == "win32"


def fail(problem: str, remedy: str) -> None:
    sys.exit(f"\nportable-mps cannot be built: {problem}\n  {remedy}\n")


def compiler() -> str:
    """The command that torch.utils.cpp_extension will compile with."""
    if WINDOWS:
        return "cl"
    return (os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++").split()[0]


def check_toolchain() -> None:
    if shutil.which(compiler()) is None:
        remedy = {
            "win32": "Install Visual Studio's C++ build tools and start from a developer command prompt.",
            "darwin": "Install the command line tools: xcode-select --install",
        }.get(sys.platform, "Install one (Debian, Ubuntu: apt install g++) or name yours: CXX=clang++")
        fail(f"the C++ compiler '{compiler()}' was not found.", remedy)
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        fail(
            f"Python's headers were not found in {include}.",
            f"Install them (Debian, Ubuntu: apt install python{version}-dev).",
        )


# An earlier install must not load itself here: its extension is what we are about to build.
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError as error:
    fail(
        f"torch cannot be imported here ({error}).",
        "Install torch 2.11 or newer (pip install torch==2.13.0), then: pip install --no-build-isolation .",
    )


# libtorch's classes may change with each minor release, not within one.
TORCH = ".".join(torch.__version__.split(".")[:2])
IS_SOURCE = "sdist" in sys.argv


class Build(BuildExtension):
    def run(self) -> None:
        check_toolchain()
        super().run()
        module = Path(self.get_ext_fullpath("portable_mps._C")).with_name("_built_for.py")
        module.write_text(f'"""Written by setup.py."""\n\nTORCH = "{TORCH}"\n')


def version() -> str:
    """Of portable_mps/__init__.py; of what is built, with the torch that it is for behind it."""
    for statement in ast.parse(Path("portable_mps/__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__":
            return ast.literal_eval(statement.value) + ("" if IS_SOURCE else f"+torch{TORCH}")
    raise ValueError("portable_mps/__init__.py has no __version__")


# No -std: torch adds the C++ standard that its own headers need.
setup(
    version=version(),
    install_requires=[
        "numpy",
        "slangpy==0.43.1",
        "torch>=2.11" if IS_SOURCE else f"torch=={TORCH}.*",
        "vulkan==1.3.275.1",
    ],
    # What `portable-mps demo` runs.
    packages=[*find_packages(include=["portable_mps*"]), "portable_mps.examples"],
    package_dir={"portable_mps.examples": "examples"},
    ext_modules=[
        CppExtension(
            "portable_mps._C",
            sources=sorted(str(path) for path in Path("csrc").glob("*.cpp")),
            depends=sorted(str(path) for path in Path("csrc").glob("*.h")),
            extra_compile_args=["/O2", "/W3"] if WINDOWS else ["-O2", "-g0", "-Wall", "-fvisibility=hidden"],
        )
    ],
    cmdclass={"build_ext": Build},
)
