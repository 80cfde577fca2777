"""torch.mps.Event, torch.Event and synchronisation."""

import pytest
import torch


def test_elapsed_time():
    start, end = (torch.mps.Event(enable_timing=True) for _ in range(2))
    x = torch.ones(256, 256, device="mps")
    start.record()
    for _ in range(4):
        x = x @ x * 1e-3
    end.record()
    end.synchronize()
    assert start.query() and end.query()
    assert 0 < start.elapsed_time(end) < 60_000


def test_query_turns_true():
    event = torch.mps.Event()
    torch.ones(64, 64, device="mps").sum()
    event.record()
    event.wait()
    event.synchronize()
    assert event.query()


def test_an_event_can_be_recorded_again():
    event = torch.mps.Event()
    for _ in range(3):
        event.record()
    event.synchronize()
    assert event.query()


def test_elapsed_time_needs_two_recorded_events():
    start, end = torch.mps.Event(enable_timing=True), torch.mps.Event(enable_timing=True)
    start.record()
    with pytest.raises(RuntimeError, match="recorded"):
        start.elapsed_time(end)


def test_untimed_events_have_no_elapsed_time():
    start, end = torch.mps.Event(), torch.mps.Event()
    start.record()
    end.record()
    with pytest.raises((RuntimeError, ValueError), match="enable_timing"):
        start.elapsed_time(end)


def test_many_events():
    events = [torch.mps.Event() for _ in range(200)]
    for event in events:
        torch.ones(1, device="mps")
        event.record()
    events[-1].synchronize()
    assert all(event.query() for event in events)


def test_generic_event_and_accelerator():
    event = torch.Event("mps")
    event.record()
    event.synchronize()
    assert event.query()
    torch.accelerator.synchronize()
    assert torch.accelerator.current_stream().device.type == "mps"
