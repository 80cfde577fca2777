"""The caching allocator: counters, reuse, limits, and memory that stops growing."""

import gc

import pytest
import torch
from processes import output_of

from portable_mps.runtime import device


@pytest.fixture(autouse=True)
def nothing_cached():
    gc.collect()
    torch.mps.empty_cache()


def test_counters():
    before = torch.mps.current_allocated_memory()
    x = torch.empty(1000, device="mps")
    assert torch.mps.current_allocated_memory() - before == 4096  # 4000 bytes in units of 512
    assert torch.mps.driver_allocated_memory() >= torch.mps.current_allocated_memory()
    del x
    assert torch.mps.current_allocated_memory() == before


def test_a_freed_block_is_used_again():
    x = torch.empty(100_000, device="mps")
    address, driver = x.data_ptr(), torch.mps.driver_allocated_memory()
    del x
    y = torch.empty(90_000, device="mps")
    assert y.data_ptr() == address and torch.mps.driver_allocated_memory() == driver


def test_neighbours_coalesce():
    parts = [torch.empty(1 << 20, dtype=torch.uint8, device="mps") for _ in range(8)]
    driver = torch.mps.driver_allocated_memory()
    del parts
    whole = torch.empty(8 << 20, dtype=torch.uint8, device="mps")
    assert torch.mps.driver_allocated_memory() == driver
    del whole


def test_empty_cache_returns_slabs_and_keeps_data():
    kept = torch.arange(10, device="mps")
    large = torch.empty(64 << 20, dtype=torch.uint8, device="mps")
    driver = torch.mps.driver_allocated_memory()
    del large
    torch.mps.empty_cache()
    assert torch.mps.driver_allocated_memory() <= driver - (64 << 20)
    assert kept.tolist() == list(range(10))


def test_freed_memory_of_recorded_work_is_not_overwritten_early():
    total = torch.zeros(1000, device="mps")
    for value in range(40):  # each temporary takes the place of the one before
        total += torch.full((1000,), float(value), device="mps") * 2
    assert total.cpu().eq(sum(range(40)) * 2).all()


def test_out_of_memory_says_what_is_needed():
    torch.mps.set_per_process_memory_fraction(0.01)
    try:
        with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate .* MiB.*PYTORCH_MPS_HIGH_WATERMARK_RATIO"):
            torch.empty(torch.mps.recommended_max_memory() // 50, dtype=torch.uint8, device="mps")
        assert torch.ones(3, device="mps").sum().item() == 3  # and the device goes on
    finally:
        torch.mps.set_per_process_memory_fraction(1.0)


def test_high_watermark_from_the_environment():
    source = """
import torch
try:
    torch.empty(torch.mps.recommended_max_memory() // 50, dtype=torch.uint8, device="mps")
except torch.OutOfMemoryError:
    print("refused")
"""
    assert output_of(source, PYTORCH_MPS_HIGH_WATERMARK_RATIO="0.01") == "refused"


def test_fraction_is_checked():
    with pytest.raises(ValueError, match="Invalid fraction value"):
        torch.mps.set_per_process_memory_fraction(3.0)
    with pytest.raises(TypeError, match="Invalid type for fraction argument"):
        torch.mps.set_per_process_memory_fraction("1")


def test_changing_shapes_do_not_grow_memory():
    shapes = [(7 + 13 * k % 29, 11 + 7 * k % 17) for k in range(25)]
    weight = torch.randn(64, 64, device="mps", requires_grad=True)

    def steps():
        for rows, columns in shapes:
            x = torch.ones(rows, 64, device="mps")
            loss = ((x @ weight)[:, :columns] ** 2).mean()
            loss.backward()
            with torch.no_grad():
                weight.sub_(weight.grad, alpha=1e-3)
            weight.grad = None

    steps()
    torch.mps.synchronize()
    after_first, live = torch.mps.driver_allocated_memory(), torch.mps.current_allocated_memory()
    for _ in range(3):
        steps()
    torch.mps.synchronize()
    assert torch.mps.driver_allocated_memory() == after_first
    assert torch.mps.current_allocated_memory() == live


def test_storage_can_grow():
    x = torch.arange(4, device="mps")
    x.resize_(6)
    assert x[:4].tolist() == [0, 1, 2, 3]


def test_more_than_the_driver_gives_in_one_piece_names_its_limit():
    most = device.current().adapter.max_buffer
    if most >= torch.mps.recommended_max_memory() * 2:
        pytest.skip("the driver's limit is above the adapter's memory")
    torch.mps.set_per_process_memory_fraction(0.0)
    try:
        with pytest.raises(torch.OutOfMemoryError, match=rf"at most {most / 2**20:.2f} MiB in one allocation"):
            torch.empty(most + 1, dtype=torch.uint8, device="mps")
    finally:
        torch.mps.set_per_process_memory_fraction(1.0)
