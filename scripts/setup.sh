#!/usr/bin/env bash
# Everything `make setup` does: system packages, the virtual environment, torch, our extension; with the argument
# `develop`, what tests, linters and the documentation need, too; with `release`, what building a release needs. Each step
# looks first and skips what is there, so running it again is cheap.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3}
TORCH_VERSION=${TORCH_VERSION:-2.13.0}
CPU_WHEELS=https://download.pytorch.org/whl/cpu

scripts/system_packages.sh "$PYTHON"

[ -x "$VENV/bin/pip" ] || "$PYTHON" -m venv "$VENV"
python=$VENV/bin/python
pip=("$python" -m pip --disable-pip-version-check --quiet)

"${pip[@]}" install "setuptools>=77" wheel ninja

if ! TORCH_DEVICE_BACKEND_AUTOLOAD=0 "$python" -c 'import torch' 2>/dev/null; then
    echo "installing torch $TORCH_VERSION"
    # The build for the CPU is all we need and is gigabytes smaller. A pip configured with its own
    # index is left as it is: it may not reach this one.
    extra=()
    configured=$("$python" -m pip config list)
    if [ "$(uname)" = Linux ] && [[ ! $configured =~ index|find-links ]]; then
        extra=(--extra-index-url "$CPU_WHEELS")
    fi
    "${pip[@]}" install "torch==$TORCH_VERSION" "${extra[@]}"
fi

installed=$VENV/.installed
if [ ! -e "$installed" ] || [ pyproject.toml -nt "$installed" ] || [ setup.py -nt "$installed" ]; then
    echo "building and installing portable-mps"
    "${pip[@]}" install --no-build-isolation --editable '.[examples]'
    touch "$installed"
else
    echo "building the extension"
    "$python" setup.py --quiet build_ext --inplace
fi

if [ $# -gt 0 ]; then
    echo "installing what '$1' needs"
    # By their names: naming our extras would build the extension once more.
    mapfile -t wanted < <("$python" - "$1" <<'END'
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    extras = tomllib.load(file)["project"]["optional-dependencies"]
names = {"develop": ["test", "lint", "docs"], "release": ["release"]}[sys.argv[1]]
print(*(each for name in names for each in extras[name] if not each.startswith("portable-mps")), sep="\n")
END
    )
    "${pip[@]}" install "${wanted[@]}"
fi
