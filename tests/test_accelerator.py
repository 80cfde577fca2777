"""Every function of torch.accelerator, which speaks to the allocator, the guard and the hooks through libtorch."""

import gc

import pytest
import torch
from processes import output_of

A = torch.accelerator
MIB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_cached():
    gc.collect()
    A.empty_cache()


def test_this_file_knows_every_function():
    names = set(A.memory.__all__) | set(A.__all__)
    assert names <= {
        *("current_accelerator", "current_device_idx", "current_device_index", "current_stream", "device_count"),
        *("device_index", "get_device_capability", "is_available", "memory", "set_device_idx", "set_device_index"),
        *("set_stream", "synchronize", "Graph", "empty_cache", "empty_host_cache", "get_memory_info"),
        *("max_memory_allocated", "max_memory_reserved", "memory_allocated", "memory_reserved", "memory_stats"),
        *("reset_accumulated_memory_stats", "reset_peak_memory_stats"),
    }


def test_device_and_stream():
    assert A.current_accelerator() == torch.device("mps") and A.is_available() and A.device_count() == 1
    A.set_device_index(0)
    A.set_device_index("mps:0")
    assert A.current_device_index() == 0
    with A.device_index(0):
        stream = A.current_stream()
    assert stream.device == torch.device("mps:0")
    A.set_stream(stream)
    x = torch.ones(4, device="mps") + 1
    A.synchronize()
    A.synchronize("mps")
    assert A.current_stream("mps:0").query() and x.sum().item() == 8


@pytest.mark.parametrize(
    "call",
    [
        lambda: A.set_device_index(1),
        lambda: A.memory_stats(1),
        lambda: A.memory_allocated("mps:1"),
        lambda: A.reset_peak_memory_stats(1),
        lambda: A.reset_accumulated_memory_stats(1),
        lambda: A.get_memory_info(1),
        lambda: A.device_index(1).__enter__(),
        lambda: torch.ones(2, device="mps:1"),
        lambda: torch.ones(2).to("mps:1"),
        lambda: torch.zeros(2, device="mps").to("mps:1"),
        lambda: torch.nn.Linear(2, 2, device=torch.device("mps", 1)),
    ],
)
def test_a_second_device_does_not_exist(call):
    with pytest.raises(RuntimeError, match="MPS device index 1 is out of range"):
        call()


def test_another_type_of_device():
    with pytest.raises(ValueError, match="doesn't match the current accelerator"):
        A.memory_allocated("cuda")


@pytest.mark.skipif(not hasattr(A, "get_device_capability"), reason="this version of torch has no such function")
def test_capability():
    from portable_mps.runtime import device

    dtypes = A.get_device_capability()["supported_dtypes"]
    assert {torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint16, torch.complex64} <= dtypes
    assert (torch.float64 in dtypes) == (torch.complex128 in dtypes) == device.current().adapter.features["float64"]
    assert not {torch.bits8, torch.uint4} & dtypes


def test_memory_of_small_and_large_tensors():
    A.reset_peak_memory_stats()
    A.reset_accumulated_memory_stats()
    before, reserved = A.memory_stats(), A.memory_reserved()
    small, large = torch.empty(1000, device="mps"), torch.empty(40 * MIB + 1, dtype=torch.uint8, device="mps")
    after = A.memory_stats()

    def grown(key):
        return after[key] - before[key]

    assert A.memory_allocated() - before["allocated_bytes.all.current"] == 4096 + 40 * MIB + 512
    assert grown("allocated_bytes.small_pool.current") == grown("active_bytes.small_pool.current") == 4096
    assert grown("requested_bytes.small_pool.current") == 4000
    assert grown("requested_bytes.large_pool.current") == 40 * MIB + 1
    assert grown("allocation.all.current") == grown("active.all.current") == 2
    assert grown("allocation.small_pool.current") == grown("allocation.large_pool.current") == 1
    assert A.memory_reserved() - reserved == grown("reserved_bytes.all.current") >= 40 * MIB
    assert grown("segment.all.current") >= 1 and grown("num_device_alloc") >= 1
    peak = A.max_memory_allocated()
    assert peak >= A.memory_allocated() and A.max_memory_reserved() >= A.memory_reserved() >= A.memory_allocated()
    assert after["inactive_split_bytes.all.current"] == A.memory_reserved() - A.memory_allocated()
    del small, large
    freed = A.memory_stats()
    assert A.memory_allocated() == before["allocated_bytes.all.current"] and A.max_memory_allocated() == peak
    assert (
        freed["allocated_bytes.all.freed"]
        == freed["allocated_bytes.all.allocated"]
        == grown("allocated_bytes.all.current")
    )
    A.reset_peak_memory_stats()
    assert A.max_memory_allocated() == A.memory_allocated()
    A.reset_accumulated_memory_stats()
    assert A.memory_stats()["allocated_bytes.all.allocated"] == A.memory_stats()["num_device_alloc"] == 0


def test_empty_cache_returns_memory():
    x = torch.empty(64 * MIB, dtype=torch.uint8, device="mps")
    reserved = A.memory_reserved()
    del x
    assert A.memory_reserved() == reserved
    A.empty_cache()
    assert A.memory_reserved() <= reserved - 64 * MIB and A.memory_stats()["num_device_free"] >= 1
    stats = A.memory_stats()
    assert stats["inactive_split_bytes.all.current"] == A.memory_reserved() - A.memory_allocated()


def test_out_of_memory_is_counted():
    before = A.memory_stats()
    torch.mps.set_per_process_memory_fraction(0.01)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(torch.mps.recommended_max_memory() // 2, dtype=torch.uint8, device="mps")
    finally:
        torch.mps.set_per_process_memory_fraction(1.0)
    after = A.memory_stats()
    assert after["num_ooms"] == before["num_ooms"] + 1 and after["num_alloc_retries"] == before["num_alloc_retries"] + 1


def test_memory_info():
    free, total = A.get_memory_info()
    assert 0 < free <= total == torch.mps.recommended_max_memory()


def test_pinned_memory():
    x = torch.ones(1000).pin_memory()
    if hasattr(A, "empty_host_cache"):  # not before torch 2.12
        A.empty_host_cache()
    assert x.is_pinned() and x.sum().item() == 1000


def test_the_profiler_sees_memory():
    with torch.profiler.profile(profile_memory=True) as profile:
        x = torch.empty(100_000, device="mps")
        del x
    sizes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert 400_384 in sizes and -400_384 in sizes  # in units of 512 bytes


def test_before_the_first_use():
    """Statistics are all zero and open no device."""
    source = """
import torch
A = torch.accelerator
print(A.memory_allocated(), A.max_memory_allocated(), A.memory_reserved(), A.max_memory_reserved())
print(sum(A.memory_stats().values()))
A.empty_cache(), A.reset_peak_memory_stats(), A.reset_accumulated_memory_stats(), A.synchronize()
from portable_mps.runtime import device
print(device.is_open())
"""
    assert output_of(source).split() == ["0", "0", "0", "0", "0", "False"]
