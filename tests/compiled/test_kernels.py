"""What a compiled graph's kernels are, and what they do with bad input."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from processes import output_of
from torch._dynamo.utils import counters

from portable_mps.inductor import kernel, launch


@pytest.fixture
def sources(monkeypatch):
    """The texts of the kernels that are made."""
    texts = []
    make = launch.graph_kernel

    def noted(name, access, numbers, messages, source):
        texts.append(source)
        return make(name, access, numbers, messages, source)

    monkeypatch.setattr(launch, "graph_kernel", noted)
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True):
        yield texts


def _normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to("mps")


def test_a_chain_is_one_kernel_of_vectors(sources):
    x, b = _normal(64, 128), _normal(128)
    compiled = torch.compile(lambda x, b: F.gelu(x + b).mul(2).add(x).tanh())
    torch.testing.assert_close(compiled(x, b), F.gelu(x + b).mul(2).add(x).tanh())
    (source,) = sources
    assert source.count("vector<float, 4> read") == 2
    assert "vector<float, 4> written0" in source


def test_layer_norm_of_a_sum_is_one_kernel(sources):
    x, r, w = _normal(9, 64), _normal(9, 64), _normal(64)
    compiled = torch.compile(lambda x, r: F.layer_norm(x + r, (64,), w, w).softmax(-1))
    torch.testing.assert_close(compiled(x, r), F.layer_norm(x + r, (64,), w, w).softmax(-1))
    assert len(sources) == 1


def test_elements_read_ahead(sources, monkeypatch):
    """What GPUs do with long rows, a software driver not."""
    monkeypatch.setattr(kernel, "_elements_ahead", lambda: 4)
    x = _normal(5, 4001)
    for function in (
        lambda x: x.softmax(1),
        lambda x: x.var(1),
        lambda x: x.t().contiguous().sum(0),
        lambda x: x.argmax(1),
    ):
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(function)(x), function(x), rtol=1e-4, atol=1e-5)
    assert any("read_tmp0[4]" in source for source in sources)


def test_a_row_that_is_changed_in_place(sources):
    """All threads of a row read what one of them writes."""

    def function(position, table):
        place = position.cumsum(1) * 2 - 1
        return (F.embedding(place, table) * 2).softmax(-1), place

    position = torch.ones(3, 12, dtype=torch.int64, device="mps")
    table = _normal(40, 64)
    for mine, theirs in zip(torch.compile(function)(position, table), function(position, table), strict=True):
        torch.testing.assert_close(mine, theirs)
    (source,) = sources
    assert source.index("p.in_out_ptr0[x0]") < source.index("AllMemoryBarrierWithGroupSync()")


@pytest.mark.parametrize("index", [7, -6])
def test_an_index_out_of_bounds(index):
    torch._dynamo.reset()
    x, before = _normal(5, 3), _normal(5, 3)
    i = torch.tensor([1, index], device="mps")
    with pytest.raises(IndexError, match=f"index {index if index > 0 else index + 5} is out of bounds"):
        torch.compile(lambda x, i: x[i] * 2)(x, i)
        torch.mps.synchronize()
    target = before.clone()
    with pytest.raises(IndexError):
        torch.compile(lambda t, i: t.index_put_((i,), torch.ones((), device="mps")))(target, i)
        torch.mps.synchronize()
    assert torch.equal(target[[0, 2, 3, 4]], before[[0, 2, 3, 4]])
    torch.mps.synchronize()


def test_any_shape_is_compiled_once(sources):
    compiled = torch.compile(lambda x: (x * 2).softmax(-1).sum(0), dynamic=True)
    for rows, columns in ((3, 50), (7, 60), (20, 1000), (2, 5)):
        x = _normal(rows, columns)
        torch.testing.assert_close(compiled(x), (x * 2).softmax(-1).sum(0))
    assert len(sources) <= 3


def test_modules_train_without_a_graph_break():
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 4)
    ).to("mps")
    state = {k: v.clone() for k, v in model.state_dict().items()}
    losses = []
    for function in (model, torch.compile(model, fullgraph=True)):
        model.load_state_dict(state)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        generator = torch.Generator().manual_seed(1)
        for _ in range(4):
            x, y = torch.randn(8, 1, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator)
            loss = F.cross_entropy(function(x.to("mps")), y.to("mps"))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    torch.testing.assert_close(losses[4:], losses[:4], rtol=1e-4, atol=1e-5)
    assert not counters["graph_break"]


_OPTIMIZERS = "Adadelta Adagrad Adam Adamax AdamW ASGD NAdam RAdam RMSprop Rprop SGD"


@pytest.mark.parametrize("name", _OPTIMIZERS.split())
def test_optimizers(name):
    torch._dynamo.reset()
    ends = []
    for compiles in (False, True):
        parameters = [torch.nn.Parameter(_normal(5, 7)) for _ in range(3)]
        optimizer = getattr(torch.optim, name)(parameters, lr=1e-2)
        step = torch.compile(optimizer.step) if compiles else optimizer.step
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.randn(5, 7, generator=generator).to("mps")
            step()
        ends.append(parameters)
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-4, atol=1e-5)


def test_gradients_of_embeddings_are_sorted_not_added_up_by_atomics(sources):
    torch.manual_seed(0)
    words, kinds = torch.randint(50, (4, 30), device="mps"), torch.zeros(4, 30, dtype=torch.int64, device="mps")
    tables = [torch.randn(n, 16, device="mps", requires_grad=True) for n in (50, 2)]

    def function(first, second):
        return (F.embedding(words, first) + F.embedding(kinds, second)).sin().sum()

    expected = torch.autograd.grad(function(*tables), tables)
    actual = torch.autograd.grad(torch.compile(function)(*tables), tables)
    assert sources and not any("atomic" in source for source in sources)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_second_process_starts_from_the_disk(tmp_path):
    script = (
        "import torch\n"
        "from torch._dynamo.utils import counters\n"
        "f = torch.compile(lambda x: x.softmax(1) * 2)\n"
        "x = torch.ones(4, 50, device='mps')\n"
        "assert torch.allclose(f(x), x.softmax(1) * 2)\n"
        "print(dict(counters['inductor']).get('fxgraph_cache_hit', 0), dict(counters['aot_autograd']))\n"
    )
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PORTABLE_MPS": "1"}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert "autograd_cache_hit" not in outputs[0]
    assert "'autograd_cache_hit': 1" in outputs[1]


def test_what_is_kept_on_the_disk_is_for_adapters_of_a_kind():
    """Generated code follows from what the adapter can do: one without float64 must not get kernels with doubles."""
    source = "import torch._dynamo; print(torch.compiler.config.cache_key_tag)"
    tags = [output_of(source, PORTABLE_MPS_HIDE=hidden) for hidden in ("", "", "float64", "push_constants=128")]
    assert tags[0] == tags[1] == tags[3] and tags[2] != tags[0] and "portable-mps" in tags[0]


def test_export_runs_and_no_package_for_c_plus_plus(tmp_path):
    program = torch.export.export(torch.nn.ReLU().to("mps"), (_normal(2, 4),))
    torch.testing.assert_close(program.module()(_normal(2, 4)), _normal(2, 4).relu())
    with pytest.raises(Exception, match="mps kernels are launched from Python"):
        torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))


def test_bools_are_compared_as_integers(sources):
    """SPIR-V's comparisons take none; finding the largest of a few elements compares whether they are NaNs."""
    x = torch.tensor([[1.0, float("nan"), 3.0], [2.0, 5.0, 5.0]], device="mps")
    compiled = torch.compile(lambda x: (x.max(1), (x > 1) < (x > 2)))
    (values, indices), less = compiled(x)
    assert indices.tolist() == [1, 1] and values[1].item() == 5
    assert torch.equal(less, (x > 1) < (x > 2))
    assert any(" > int(" in source for source in sources) and any(" < int(" in source for source in sources)
