"""Repeated calls of an operator are replayed without Python (csrc/replay.h), and differ in nothing from others."""

import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from processes import run_script
from support import assert_same, to_mps

from portable_mps import _C
from portable_mps.dispatch import products
from portable_mps.dispatch.convolution import rows
from portable_mps.runtime import device


@pytest.fixture(autouse=True)
def replays():
    """As users have it: the second call is recorded, later ones are replayed."""
    torch.zeros((), device="mps")  # the first tensor has the operators registered, which sets the mode
    _C.set_replay_mode(1)
    yield
    _C.set_replay_mode(2)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def our_frames(call):
    """How many Python functions of ours `call` runs."""
    frames = []

    def note(frame, event, argument):
        if event == "call" and "portable_mps" in frame.f_code.co_filename:
            frames.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return [name for name in frames if not name.startswith("Stream.")]  # which hands over what is recorded


def check(function, *shapes, times=5, **tolerance):
    """function on new tensors each time, which the last times is done without Python."""
    for seed in range(times):
        inputs = [normal(*shape, seed=seed * 10 + i) for i, shape in enumerate(shapes)]
        ours = [to_mps(tensor) for tensor in inputs]
        results = []
        frames = our_frames(lambda ours=ours, results=results: results.append(function(*ours)))
        assert_same(results[0], function(*inputs), **tolerance)
    assert frames == []


CLOSE = {"rtol": 1e-4, "atol": 1e-4}
CALLS = {
    "mm": (torch.mm, (5, 7), (7, 9)),
    "linear": (F.linear, (3, 5, 7), (9, 7), (9,)),
    "addmm": (lambda a, b, c: torch.addmm(a, b, c, beta=0.5), (9,), (5, 7), (7, 9)),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), (2, 4, 6, 5), (3, 4, 3, 3), (3,)),
    "transposed": (lambda x, w: F.conv_transpose2d(x, w, stride=2), (2, 4, 6, 5), (4, 3, 3, 3)),
    "attention": (F.scaled_dot_product_attention, (2, 3, 9, 8), (2, 3, 7, 8), (2, 3, 7, 8)),
    "softmax": (lambda x: x.softmax(-1), (6, 33)),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (33,), w, b), (6, 33), (33,), (33,)),
    "sum": (lambda x: x.sum(1), (6, 33, 4)),
    "cat": (lambda a, b: torch.cat((a, b), 1), (6, 3), (6, 5)),
    "var_mean": (lambda x: torch.var_mean(x, 0), (6, 33)),
}


@pytest.mark.parametrize("name", CALLS)
def test_later_calls_need_no_python(name):
    function, *shapes = CALLS[name]
    check(function, *shapes, **CLOSE)


def test_gradients():
    for seed in range(4):
        inputs = [normal(*shape, seed=seed).requires_grad_() for shape in ((2, 4, 6, 5), (3, 4, 3, 3))]
        ours = [tensor.detach().to("mps").requires_grad_() for tensor in inputs]
        results = [torch.autograd.grad(F.conv2d(x, w, padding=1).softmax(1).norm(), (x, w)) for x, w in (inputs, ours)]
        assert_same(results[1], results[0], **CLOSE)


def test_results_have_their_own_memory():
    a = to_mps(normal(8, 8))
    results = [a @ a for _ in range(5)]
    results[3].zero_()
    assert all(bool(result.any()) == (i != 3) for i, result in enumerate(results))
    assert len({result.data_ptr() for result in results}) == 5


def test_which_arguments_share_memory():
    """A product that writes one of its factors is another call than one that does not."""
    for seed in range(4):
        a, b = normal(6, 6, seed=seed), normal(6, 6, seed=seed + 50)
        out, aliased = to_mps(b), to_mps(a)
        torch.mm(to_mps(a), to_mps(b), out=out)
        assert_same(out, a @ b, **CLOSE)
        torch.mm(aliased, aliased, out=aliased)
        assert_same(aliased, a @ a, **CLOSE)
        rows = to_mps(torch.cat((a, b)))
        torch.mm(rows[:6], rows[6:], out=rows[3:9])
        assert_same(rows[3:9], a @ b, **CLOSE)


@pytest.mark.parametrize("offset", [0, 1, 3, 4])
def test_where_arguments_start(offset):
    for seed in range(4):
        memory = normal(200, seed=seed)
        parts = [t[offset : offset + 64].view(8, 8) for t in (memory, to_mps(memory))]
        assert_same(parts[1] @ parts[1], parts[0] @ parts[0], **CLOSE)


def test_arguments_that_are_written():
    """Running statistics move with each call, and accumulation reads what it writes."""
    theirs, ours = (torch.nn.BatchNorm2d(3).to(device) for device in ("cpu", "mps"))
    sums = torch.zeros(4, 4), torch.zeros(4, 4, device="mps")
    for seed in range(5):
        image, a = normal(4, 3, 5, 5, seed=seed), normal(4, 4, seed=seed)
        assert_same(ours(to_mps(image)), theirs(image), **CLOSE)
        for total, factor in zip(sums, (a, to_mps(a)), strict=True):
            total.addmm_(factor, factor)
    assert_same(ours.running_var, theirs.running_var, **CLOSE)
    assert_same(sums[1], sums[0], **CLOSE)


def test_random_numbers_are_new():
    q = to_mps(normal(1, 2, 16, 8))
    results = [F.scaled_dot_product_attention(q, q, q, dropout_p=0.5) for _ in range(5)]
    assert not any(torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])


def test_dropout_in_attention_is_the_same_in_the_backward_pass():
    q, k, v = (to_mps(normal(1, 2, 6, 8, seed=i)).requires_grad_() for i in range(3))

    def step():
        output = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
        return output, *torch.autograd.grad(output.square().sum(), (q, k, v))

    def run(mode):
        _C.set_replay_mode(mode)
        torch.manual_seed(0)
        return [step() for _ in range(5)]

    expected, replayed = run(0), run(1)
    torch.testing.assert_close(replayed, expected, rtol=0, atol=0)
    assert our_frames(step) == []


DRAWS = {
    "dropout": lambda x: torch.native_dropout(x, 0.5, True)[0],
    "normal": lambda x: torch.empty_like(x).normal_(1, 2),
    "uniform": lambda x: torch.empty_like(x).uniform_(-1, 1),
    "bernoulli": lambda x: torch.empty_like(x).bernoulli_(0.3),
}


@pytest.mark.parametrize("name", DRAWS)
def test_seeds_give_what_they_give_without_replays(name):
    x = to_mps(normal(5, 7))

    def run(mode):
        _C.set_replay_mode(mode)
        torch.manual_seed(0)
        drawn = [DRAWS[name](x) for _ in range(5)]
        generator = torch.Generator("mps").manual_seed(3)  # of the user's own: not replayed
        own = [torch.empty_like(x).normal_(generator=generator) for _ in range(4)]
        return drawn + own, torch.mps.get_rng_state()

    torch.testing.assert_close(run(1), run(0), rtol=0, atol=0)
    run(1)
    assert our_frames(lambda: DRAWS[name](x)) == []


def test_what_decides_beside_the_arguments():
    """Whether gradients are wanted, and settings of torch's."""
    q = to_mps(normal(1, 2, 16, 8))
    for _ in range(4):
        F.scaled_dot_product_attention(q, q, q)
    wanted = q.clone().requires_grad_()
    F.scaled_dot_product_attention(wanted, wanted, wanted).sum().backward()
    assert wanted.grad is not None and bool(wanted.grad.any())
    a = to_mps(normal(3, 3))
    for _ in range(4):
        a @ a
    assert not our_frames(lambda: a @ a)
    torch.use_deterministic_algorithms(True)
    try:
        assert our_frames(lambda: a @ a)  # some operators warn or refuse then, each time
    finally:
        torch.use_deterministic_algorithms(False)


def test_outputs_are_resized_each_time():
    a, b = to_mps(normal(3, 4)), to_mps(normal(4, 5))
    for _ in range(4):
        out = torch.zeros(6, 7, device="mps")
        with pytest.warns(UserWarning, match="was resized"):
            torch.mm(a, b, out=out)
        assert out.shape == (3, 5)


def test_errors_are_raised_each_time():
    a, b = to_mps(normal(3, 4)), to_mps(normal(3, 4))
    for _ in range(4):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            torch.mm(a, b)


REPORTING = {
    "index": lambda t, i: t[i],
    "index_select": lambda t, i: t.index_select(0, i),
    "embedding": lambda t, i: F.embedding(i, t),
    "gather": lambda t, i: t.gather(0, i.unsqueeze(1)),
    "cross_entropy": lambda t, i: F.cross_entropy(t[:2], i),
}


@pytest.mark.parametrize("name", REPORTING)
def test_errors_that_kernels_report(name):
    table = to_mps(normal(5, 5))
    for places in ([1, 2], [3, 4], [0, 1], [4, 0]):
        REPORTING[name](table, torch.tensor(places).to("mps"))
        torch.mps.synchronize()
    wrong = torch.tensor([1, 77]).to("mps")
    torch.mps.synchronize()
    for _ in range(2):
        with pytest.raises((IndexError, RuntimeError), match=r"77|out of range"):
            REPORTING[name](table, wrong)
            torch.mps.synchronize()
    torch.mps.synchronize()


def test_memory_does_not_grow():
    a, image, weight = to_mps(normal(32, 32)), to_mps(normal(2, 8, 9, 9)), to_mps(normal(8, 8, 3, 3))
    taken = []
    for _ in range(20):
        F.conv2d(image, weight, padding=1)
        (a @ a).softmax(0)
        taken.append(torch.mps.current_allocated_memory())
    assert len(set(taken[5:])) == 1


def test_threads():
    failures = []

    def work(seed):
        a = normal(16, 16, seed=seed)
        ours, expected = to_mps(a), (a @ a).softmax(0)
        for _ in range(50):
            if not torch.allclose((ours @ ours).softmax(0).cpu(), expected, rtol=1e-4, atol=1e-5):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("name", ["mm", "conv2d", "attention"])
def test_addresses_that_a_launch_does_not_name(name, monkeypatch):
    """A replay would take those of the recorded call: it is not replayed, and fails where all calls are (in tests)."""
    function, *shapes = CALLS[name]
    stream = device.current().stream
    launch = stream.launch

    def forgetful(kernel, parameters, groups, reads, writes, addresses, draws=()):
        launch(kernel, parameters, groups, reads, writes, list(addresses)[1:], draws)

    monkeypatch.setattr(stream, "launch", forgetful)
    _C.forget_replays()
    for seed in range(4):
        inputs = [normal(*shape, seed=seed) for shape in shapes]
        ours = [to_mps(tensor) for tensor in inputs]
        assert_same(function(*ours), function(*inputs), **CLOSE)
    assert our_frames(lambda: function(*ours))
    _C.set_replay_mode(2)
    _C.forget_replays()
    with pytest.raises(RuntimeError, match="takes addresses that its launch does not name"):
        function(*ours)
    _C.forget_replays()


def test_tables_outlive_the_plans_that_made_them():
    function, *shapes = CALLS["conv2d"]
    for seed in range(4):
        inputs = [normal(*shape, seed=seed) for shape in shapes]
        ours = [to_mps(tensor) for tensor in inputs]
        function(*ours)
    for plans in products._tables:
        plans.clear()
    rows._table.cache_clear()
    overwritten = [torch.full((16,), 1 << 40, device="mps") for _ in range(64)]
    results = []
    assert not our_frames(lambda: results.append(function(*ours)))
    assert_same(results[0], function(*inputs), **CLOSE)
    assert overwritten


def test_a_tape_may_outlive_python():
    """It holds the last reference to its kernels here, and torch's operators end after Python does."""
    script = """if True:
        import gc, torch
        from portable_mps.dispatch import products
        from portable_mps.runtime.kernel import Template
        a = torch.ones(4, 4, device="mps")
        for _ in range(4):
            a @ a
        for plans in products._tables:
            plans.clear()
        for template in [o for o in gc.get_objects() if isinstance(o, Template)]:
            template._variants.clear()
        gc.collect()
    """
    ended = run_script(script, PORTABLE_MPS_REPLAY="1")
    assert ended.returncode == 0, ended.stderr


def test_off():
    _C.set_replay_mode(0)
    a = to_mps(normal(4, 4))
    for _ in range(3):
        a @ a
    assert our_frames(lambda: a @ a)


def test_gradients_without_memory():
    """Forward-mode gradients may be zeros that have no memory: a replay would read it."""
    target = torch.ones(3, device="mps")
    for _ in range(4):
        target.copy_(torch.ones(3, device="mps"))
    target.copy_(torch._efficientzerotensor((3,), device="mps"))
    assert target.tolist() == [0, 0, 0]
    empty = torch.zeros(3, 0, 0, device="mps")
    (sign, logarithm), tangents = torch.func.jvp(torch.linalg.slogdet, (empty,), (empty,))
    assert (sign.tolist(), logarithm.tolist()) == ([1] * 3, [0] * 3)
    assert [t.tolist() for t in tangents] == [[0] * 3] * 2
