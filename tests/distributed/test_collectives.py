"""Collectives of mps tensors, by processes that share an adapter: values and errors as gloo's on the CPU."""

from pathlib import Path

import pytest
import torch
from processes import RANK_BEGINS, RANK_ENDS, outputs_of, run_ranks

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")

BEGIN = RANK_BEGINS.replace("group()", 'group("gloo")')


def run(source, ranks=2):
    return outputs_of(BEGIN + source + RANK_ENDS, ranks)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_every_collective_and_dtype(ranks):
    folder = Path(__file__).parent
    source = f"import sys; sys.path.insert(0, {str(folder)!r}); import collectives; collectives.compare()"
    for output in run(source, ranks):
        assert output.isdecimal() and int(output) > 350, output


def test_what_is_changed_after_the_call_is_not_sent():
    """Nor is what is written before it overtaken: a copy has its place among the kernels."""
    source = """
x = torch.full((1 << 18,), rank + 1.0, device="mps")
works = []
for step in range(8):
    x = x * 2
    sent = x.clone()
    works.append((dist.all_reduce(sent, async_op=True), sent))
    x = x + 1
for work, sent in works:
    work.wait()
expected, each = [], [1.0, 2.0]
for step in range(8):
    each = [2 * value for value in each]
    expected.append(sum(each))
    each = [value + 1 for value in each]
assert [sent[5].item() for _, sent in works] == expected == [sent[-1].item() for _, sent in works]
"""
    run(source)


def test_groups_objects_and_barriers():
    source = """
x = torch.ones(2, device="mps")
pair, one = dist.new_group([0, 1]), dist.new_group([1])
dist.all_reduce(x, group=pair)
if rank == 1:
    dist.all_reduce(x, group=one)
gathered, shared = [None] * 2, [torch.full((2,), 7, device="mps") if rank == 0 else None]
dist.all_gather_object(gathered, {"rank": torch.full((1,), rank, device="mps")})
dist.broadcast_object_list(shared, 0)
dist.monitored_barrier()
dist.barrier(async_op=True).wait()
print(x.tolist(), [part["rank"].item() for part in gathered], shared[0].tolist(), dist.get_backend())
"""
    assert run(source) == ["[2.0, 2.0] [0, 1] [7, 7] gloo"] * 2


def test_a_group_that_names_its_device():
    """It is divided in another way than one that does not."""
    source = """
from torch.distributed.device_mesh import init_device_mesh
mesh = init_device_mesh("mps", (1, 2), mesh_dim_names=("outer", "inner"))
for name in ("outer", "inner"):
    for device in ("mps", "cpu"):
        x = torch.ones(2, device=device)
        dist.all_reduce(x, group=mesh[name].get_group())
        print(x.tolist(), end=" ")
"""
    begin = RANK_BEGINS.replace("group()", 'group(device_id=torch.device("mps", 0))')
    assert outputs_of(begin + source + RANK_ENDS, 2) == ["[1.0, 1.0] [1.0, 1.0] [2.0, 2.0] [2.0, 2.0]"] * 2


def test_functional_collectives():
    source = """
import torch.distributed._functional_collectives as functional
x = torch.full((2,), rank + 1.0, device="mps")
summed = functional.all_reduce(x, "sum", dist.group.WORLD)
gathered = functional.all_gather_tensor(x, 0, dist.group.WORLD)
scattered = functional.reduce_scatter_tensor(x.repeat(2), "sum", 0, dist.group.WORLD)
print((summed + 0).tolist(), (gathered + 0).tolist(), (scattered + 0).tolist())
"""
    assert run(source) == ["[3.0, 3.0] [1.0, 1.0, 2.0, 2.0] [3.0, 3.0]"] * 2


def test_a_callback_may_wait_for_the_next_collective():
    """As PowerSGD's do; also where a collective is over, or has failed, before a callback can be added."""
    source = """
alone = [dist.new_group([one]) for one in range(2)][rank]
def again(group):
    return lambda future: 2 * dist.all_reduce(future.value()[0], group=group, async_op=True).get_future().wait()[0]
def recovered(future):
    try:
        return future.value()
    except RuntimeError:
        return dist.all_reduce(torch.ones(2, device="mps"), group=alone, async_op=True).get_future().wait()
for _ in range(100):
    for group, expected in ((alone, 2), (None, 8)):
        x = torch.ones(2, device="mps")
        summed = dist.all_reduce(x, group=group, async_op=True).get_future().then(again(group)).wait()
        assert summed.tolist() == [expected] * 2, summed
    failing = dist.all_reduce(torch.ones(2, device="mps"), op=dist.ReduceOp.BAND, group=alone, async_op=True)
    assert failing.get_future().then(recovered).wait()[0].tolist() == [1, 1]
"""
    run(source)


ERRORS = """
def refused(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "done"
for device in ("cpu", "mps"):
    x, y = torch.ones(2, device=device), torch.ones(3, device=device)
    print([refused(call) for call in (
        lambda: dist.all_reduce(x, op=dist.ReduceOp.BAND),
        lambda: dist.all_gather_into_tensor(y, x),
        lambda: dist.all_gather([x, x], y),
        lambda: dist.all_reduce_coalesced([x, x.long()]),
        lambda: dist.send(x, rank),
        lambda: dist.broadcast(x, 5),
    )])
"""


def test_errors_are_those_of_the_cpu():
    for output in run(ERRORS):
        on_cpu, ours = output.splitlines()
        assert ours == on_cpu and "done" not in ours


# `wide` stands for what gloo does not add up.
SPARSE = """
indices, shapes = torch.tensor([[0, 2 + rank, 0], [1, 1, 1]]), {"elements": (), "rows": (4,)}
for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.int16):
    for what, dense in shapes.items():
        values = torch.arange(1, 4).view(3, *[1] * len(dense)).expand(3, *dense).to(dtype) + rank
        wide = {torch.int16: torch.int32, torch.float16: torch.float32, torch.bfloat16: torch.float32}.get(dtype, dtype)
        expected = torch.sparse_coo_tensor(indices, values.to(wide), (6, 3, *dense))
        x = torch.sparse_coo_tensor(indices, values, (6, 3, *dense)).to("mps")
        dist.all_reduce(expected)
        dist.all_reduce(x)
        assert x.is_coalesced() == expected.is_coalesced() and x.dtype == dtype, (dtype, what)
        assert torch.equal(x.cpu().to_dense().to(wide), expected.to_dense()), (dtype, what)
works = [dist.all_reduce(torch.eye(3, device="mps").to_sparse() * k, async_op=True) for k in (1, 2)]
print([work.get_future().wait()[0].to_dense().sum().item() for work in works], end=" ")
x = torch.eye(2, device="mps").to_sparse()
for call in (lambda: dist.all_reduce(x, op=dist.ReduceOp.MAX), lambda: dist.broadcast(x, 0)):
    try:
        call()
    except (RuntimeError, NotImplementedError) as error:
        print(type(error).__name__, "only works with ReduceOp.SUM" in str(error) or "SparseMPS" in str(error), end=" ")
torch.manual_seed(0)
results = []
for device in ("cpu", "mps"):
    table = torch.nn.Embedding(10, 4, sparse=True)
    torch.nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(0))
    model = torch.nn.parallel.DistributedDataParallel(table.to(device))
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.1)
    for step in range(3):
        model(torch.tensor([1 + rank, 4, step], device=device)).pow(2).sum().backward()
        assert table.weight.grad.is_sparse
        optimizer.step()
        optimizer.zero_grad()
    results.append(table.weight.detach().cpu())
torch.testing.assert_close(*results)
"""


def test_sums_of_sparse_tensors():
    """And sparse gradients of DistributedDataParallel; what gloo lacks is refused as on the CPU."""
    assert run(SPARSE) == ["[6.0, 12.0] RuntimeError True NotImplementedError True"] * 2


def test_a_tensor_without_memory_on_the_host():
    """That of those before it is used again."""
    source = """
from portable_mps.runtime import collectives, device
passage, made = collectives.Passage, []
def limited(*arguments):
    if len(made) % 2:
        made.append(None)
        raise MemoryError("no host memory")
    made.append(passage(*arguments))
    return made[-1]
collectives.Passage = limited
for _ in range(3):
    try:
        dist.all_gather([torch.empty(2, device="mps") for _ in range(2)], torch.ones(2, device="mps"))
    except MemoryError:
        torch.mps.synchronize()
        print(len(device.current().host_buffers._free), end=" ")
collectives.Passage = passage
"""
    assert run(source) == ["1 1 1"] * 2


def test_memory_on_the_host_is_used_again_and_freed():
    source = """
from portable_mps.runtime import device
for size in (10, 1 << 16, 10, 1 << 19, 10):
    dist.all_reduce(torch.ones(size, device="mps"))
torch.mps.synchronize()
buffers = device.current().host_buffers
before = sorted(buffer.memory.size for buffer, _ in buffers._free)
torch.mps.empty_cache()
print(before, len(buffers._free), end=" ")
x = torch.ones(3, device="mps")
dist.all_reduce(x)
assert x.tolist() == [2, 2, 2]
torch.mps.synchronize()
if hasattr(torch.accelerator, "empty_host_cache"):  # not before torch 2.12
    torch.accelerator.empty_host_cache()
    assert not buffers._free
"""
    assert run(source) == ["[65536, 262144, 2097152] 0"] * 2


FAULT = """
import datetime, time
dist.all_reduce(torch.ones(1, device="mps"))
group = dist.new_group(timeout=datetime.timedelta(seconds=3))
x = torch.ones(2 + 2 * (FAULT == "shape") * rank, device="mps")
if rank == 1 and FAULT == "killed":
    os._exit(0)
if rank == 1 and FAULT == "slow":
    time.sleep(6)
start = time.monotonic()
try:
    dist.all_reduce(x, group=group)
    print("done")
except RuntimeError as error:
    print("raised", x.sum().item() == x.numel(), time.monotonic() - start < 5)
os._exit(0)
"""


@pytest.mark.parametrize("fault", ["killed", "slow"])
def test_faults_of_another_process_are_raised(fault):
    """Within the timeout, and nothing is written to the tensor."""
    first, *_ = run_ranks(f"FAULT = {fault!r}\n{BEGIN}{FAULT}", 2)
    assert first.stdout.strip() == "raised True True", first.stdout + first.stderr


def test_a_process_with_another_shape():
    """An error on one rank at the least, as gloo has it on the CPU; the others' follows as that one ends."""
    outputs = [done.stdout.strip() for done in run_ranks(f"FAULT = 'shape'\n{BEGIN}{FAULT}", 2)]
    assert any(output.startswith("raised") for output in outputs), outputs
