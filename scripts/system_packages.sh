#!/usr/bin/env bash
# usage: system_packages.sh PYTHON
# Installs with apt what pip cannot: the Vulkan loader, a Vulkan driver where there is none, the libraries that
# slangpy links to, and what PYTHON lacks to make a virtual environment and to compile against.
# Where apt or the right to use it is missing, says what to install and stops.
set -euo pipefail

python=$1
[ "$(uname)" = Linux ] || exit 0

if [ -z "$python" ] || ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "portable-mps needs Python 3.10 or newer. Install it (Debian, Ubuntu: apt install python3.11-venv)," \
         "or name yours: make PYTHON=/path/to/python" >&2
    exit 1
fi

has_library() { "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null; }

has_vulkan_driver() {
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] && return
    # Where the loader looks: https://github.com/KhronosGroup/Vulkan-Loader/blob/main/docs/LoaderDriverInterface.md
    local folder
    for folder in "${XDG_CONFIG_HOME:-$HOME/.config}" /etc/xdg /etc /usr/local/etc \
                  "${XDG_DATA_HOME:-$HOME/.local/share}" /usr/local/share /usr/share; do
        compgen -G "$folder/vulkan/icd.d/*.json" >/dev/null && return
    done
    return 1
}

version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
has_headers() { "$python" -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' 2>/dev/null; }

missing=()
has_library libvulkan.so.1 || missing+=(libvulkan1)
has_library libX11.so.6 || missing+=(libx11-6)
has_library libatomic.so.1 || missing+=(libatomic1)
has_vulkan_driver || missing+=(mesa-vulkan-drivers)
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=("$version-venv")
has_headers || missing+=("$version-dev")
command -v "${CXX:-c++}" >/dev/null || missing+=(g++)
[ ${#missing[@]} -gt 0 ] || exit 0

sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
if ! command -v apt-get >/dev/null || { [ ${#sudo[@]} -gt 0 ] && ! command -v sudo >/dev/null; }; then
    echo "portable-mps needs system packages that are missing. Install them (names of Debian and Ubuntu):" >&2
    echo "    apt-get install ${missing[*]}" >&2
    exit 1
fi
echo "installing with apt: ${missing[*]}"
"${sudo[@]}" apt-get -qq update
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
