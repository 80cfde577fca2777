"""Running a script in a process of its own, for what a process can do only once: start, fork, end."""

import os
import socket
import subprocess
import sys

# Around what each rank of a run does. Not by the interpreter's end, where gloo's threads may crash (test_beside_us.py).
RANK_BEGINS = """
import faulthandler, os, sys, torch, torch.distributed as dist
faulthandler.dump_traceback_later(170, exit=True)  # a process that hangs says where
dist.init_process_group()
rank = dist.get_rank()
"""
RANK_ENDS = "\ndist.barrier()\ndist.destroy_process_group()\nos._exit(0)"


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


def rendezvous() -> dict[str, str]:
    """Where the processes of one torch.distributed run meet, as its environment variables."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}


def run_ranks(source: str, ranks: int, *arguments: str, **environment: str) -> list[subprocess.CompletedProcess[str]]:
    """`python -c source` once a rank, side by side; none of them ends the others. Each ends within three minutes."""
    shared = os.environ | {"PORTABLE_MPS": "1", "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(ranks)} | rendezvous()
    command = [sys.executable, "-c", source, *arguments]
    started = [
        subprocess.Popen(
            command,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    done = []
    try:
        for process in started:
            output, errors = process.communicate(timeout=180)
            done.append(subprocess.CompletedProcess(command, process.returncode, output, errors))
    finally:
        for process in started:
            process.kill()
    return done


def outputs_of(source: str, ranks: int, *arguments: str, **environment: str) -> list[str]:
    """What each rank printed; fails with the output of all where an exit status is not 0."""
    done = run_ranks(source, ranks, *arguments, **environment)
    everything = "".join(f"rank {rank}:\n{one.stdout}{one.stderr}" for rank, one in enumerate(done))
    assert all(one.returncode == 0 for one in done), everything
    return [one.stdout.strip() for one in done]
