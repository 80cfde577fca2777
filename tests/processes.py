"""Running a script in a process of its own, for what a process can do only once: start, fork, end."""

import os
import subprocess
import sys


def run_script(source: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -c source`, the device ours unless `environment` says otherwise."""
    return subprocess.run(
        [sys.executable, "-c", source, *arguments],
        env=os.environ | {"PORTABLE_MPS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=180,
    )


def output_of(source: str, *arguments: str, **environment: str) -> str:
    """What the script printed; fails with all of its output where its exit status is not 0."""
    done = run_script(source, *arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
