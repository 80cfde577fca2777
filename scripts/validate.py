"""Runs the tests under the Khronos validation layer, synchronisation validation on: `make validate`.

Fails where the tests do, and for any message of the layer that `KNOWN` does not explain. Arguments are pytest's. The
layer is the one that is installed, else Debian's, unpacked below build/ (apt-get download). All processes of the tests
write to one pipe, as the layer empties the file that it logs to whenever it is loaded.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYER = "VK_LAYER_KHRONOS_validation"
PACKAGE = "vulkan-validationlayers"
# What a message may say, and why it is none of ours.
KNOWN = {
    r"SPIR-V module not valid: Invalid source language operand: 11": "the layer of 2023 does not know Slang's number",
}
SETTINGS = """\
khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG
khronos_validation.report_flags = error,warn,perf
khronos_validation.enables = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT
khronos_validation.enable_message_limit = true
khronos_validation.duplicate_message_limit = 10
khronos_validation.log_filename = {log}
"""
# "NAME(ERROR / SPEC): msgNum: …", then lines of objects.
_MESSAGE = re.compile(r"^(\S+)\((ERROR|WARN|PERF)[^)]*\): msgNum: .*", re.MULTILINE)


def layer_folder() -> Path | None:
    """Where the layer was unpacked; None where the loader finds it by itself."""
    shared = Path("share/vulkan/explicit_layer.d/VkLayer_khronos_validation.json")
    if os.environ.get("VK_ADD_LAYER_PATH") or any((p / shared).exists() for p in (Path("/usr"), Path("/usr/local"))):
        return None
    folder = ROOT / "build" / "validation"
    manifest = folder / "layer" / shared.name
    if not manifest.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "-qq", "download", PACKAGE], cwd=folder, check=True)
        archive = next(folder.glob(f"{PACKAGE}_*.deb"))
        subprocess.run(["dpkg", "-x", archive.name, "."], cwd=folder, check=True)
        library = next((folder / "usr/lib").rglob("libVkLayer_khronos_validation.so"))
        described = json.loads((folder / "usr" / shared).read_text())
        described["layer"]["library_path"] = str(library)
        manifest.parent.mkdir(exist_ok=True)
        manifest.write_text(json.dumps(described))
    return manifest.parent


def judge(log: str) -> tuple[Counter[str], dict[str, str]]:
    """How often each known message came, and the unknown ones: the first of each name, in full."""
    known: Counter[str] = Counter()
    unknown: dict[str, str] = {}
    starts = [match.start() for match in _MESSAGE.finditer(log)]
    for start, end in zip(starts, [*starts[1:], len(log)], strict=True):
        text = log[start:end].strip()
        reasons = [reason for pattern, reason in KNOWN.items() if re.search(pattern, text)]
        if reasons:
            known[reasons[0]] += 1
        else:
            unknown.setdefault(text.split("(", 1)[0], text)
    if log.strip() and not starts:
        unknown["unreadable"] = log.strip()[:2000]
    return known, unknown


def run(command: list[str], folder: Path) -> tuple[int, str]:
    """The command's exit status, and what the layer said in all of its processes."""
    pipe, settings = folder / "pipe", folder / "vk_layer_settings.txt"
    os.mkfifo(pipe)
    settings.write_text(SETTINGS.format(log=pipe))
    environment = {"VK_INSTANCE_LAYERS": LAYER, "VK_LAYER_SETTINGS_PATH": str(settings)}
    layers = layer_folder()
    if layers is not None:
        environment["VK_ADD_LAYER_PATH"] = str(layers)
    parts: list[bytes] = []

    def read(descriptor: int) -> None:
        while part := os.read(descriptor, 1 << 16):
            parts.append(part)

    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(pipe, os.O_WRONLY)  # so that it does not end between two processes
    os.set_blocking(reading, True)
    reader = threading.Thread(target=read, args=(reading,))
    reader.start()
    status = subprocess.run(command, cwd=ROOT, env=os.environ | environment).returncode
    os.close(writing)
    reader.join()
    os.close(reading)
    return status, b"".join(parts).decode(errors="replace")


def main() -> int:
    """The exit status."""
    arguments = sys.argv[1:] or ["-n", "2"]
    with tempfile.TemporaryDirectory() as folder:
        status, log = run([sys.executable, "-m", "pytest", *arguments], Path(folder))
    known, unknown = judge(log)
    kept = ROOT / "build" / "validation.log"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(log)
    for reason, count in known.items():
        print(f"validation: {count} known messages: {reason}")
    for text in unknown.values():
        print(f"validation: {text}\n")
    if not known:
        # Every kernel that Slang compiles brings it.
        print("validation: not even the known message came: was the layer loaded?")
    print(f"validation: {len(unknown)} unknown kinds of messages; all messages are in {kept.relative_to(ROOT)}")
    return status or int(bool(unknown) or not known)


if __name__ == "__main__":
    sys.exit(main())
