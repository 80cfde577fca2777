"""Several Python threads on the one stream."""

import threading

import pytest
import torch


def in_threads(count, function):
    """Run function(k) in `count` threads; raises what they raised."""
    errors = []

    def guarded(k):
        try:
            function(k)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]


def test_forward_and_backward():
    torch.manual_seed(0)
    inputs = [torch.randn(8, 16) for _ in range(4)]
    weight = torch.randn(16, 16)
    expected = []
    for x in inputs:
        w = weight.clone().requires_grad_()
        (x @ w).relu().square().sum().backward()
        expected.append(w.grad)

    def work(k):
        for _ in range(6):
            w = weight.to("mps").requires_grad_()
            (inputs[k].to("mps") @ w).relu().square().sum().backward()
            torch.testing.assert_close(w.grad.cpu(), expected[k], rtol=1e-4, atol=1e-4)

    in_threads(4, work)


def test_allocation_and_copies():
    def work(k):
        for step in range(30):
            x = torch.full((100 + step,), float(k), device="mps")
            assert (x + step).cpu().eq(k + step).all()

    in_threads(4, work)


def test_synchronisation_while_others_record():
    stop = threading.Event()

    def work(k):
        if k == 0:
            for _ in range(20):
                torch.mps.synchronize()
                torch.mps.empty_cache()
            stop.set()
        else:
            while not stop.is_set():
                assert torch.arange(50, device="mps").sum().item() == 1225

    in_threads(3, work)


def test_the_error_of_one_thread_reaches_a_thread():
    x = torch.zeros(3, device="mps")

    def work(k):
        x[torch.tensor([7], device="mps")]
        torch.mps.synchronize()

    with pytest.raises(IndexError):
        in_threads(1, work)
