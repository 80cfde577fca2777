"""Adapters with less than this one has, simulated by PORTABLE_MPS_HIDE, each in a process of its own.

A hidden feature is not enabled in the device, but drivers may take a kernel that needs it nevertheless: what was
compiled is read, too. The whole test suite runs under such settings (PORTABLE_MPS_HIDE=float64 make test).
"""

import pytest
import spirv
from processes import output_of, run_script

from portable_mps.runtime import adapter

LEAST = (
    "float64,float16,int64_atomics,float32_atomics,subgroup_shuffle,cooperative_matrix,push_constants=128,shared=16384"
)

# One of each family of kernels with much shared memory, many parameters or sums in any order.
NETWORK = """
import torch
from torch import nn
from torch.nn import functional as F

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.EmbeddingBag(30, 8)
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, stride=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Linear(8, 5)

    def forward(self, images, tokens):
        x = F.max_pool2d(self.norm(self.first(images)).relu(), 2)
        x = self.second(x).flatten(2).transpose(1, 2)
        x = self.attention(x, x, x, need_weights=False)[0]
        return F.log_softmax(self.last(x.mean(1) + self.tokens(tokens)), -1)

def train(device):
    torch.manual_seed(0)
    network = Network()
    images, tokens, labels = torch.randn(6, 3, 16, 16), torch.randint(30, (6, 4)), torch.randint(5, (6,))
    network, images, tokens, labels = (each.to(device) for each in (network, images, tokens, labels))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.nll_loss(network(images, tokens), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().cpu())
    return torch.stack(losses)

def others(device):
    torch.manual_seed(0)
    a, b, index = torch.randn(130, 96), torch.randn(96, 140), torch.randint(20, (700,))
    a, b, index = a.to(device), b.to(device), index.to(device)
    zeros = torch.zeros(20, dtype=torch.int64, device=device)
    whole = zeros.index_add(0, index, index), zeros.scatter_reduce(0, index, index * index, "amax"), index.bincount()
    results = a @ b, a.sort(1).values, a.cumsum(0), torch.fft.rfft(a).abs(), torch.linalg.inv(a[:6, :6]), a.std(0)
    half, turned = a.bfloat16() @ b.bfloat16(), torch.arange(20000, device=device).view(100, 200).t().contiguous()
    return [each.cpu() for each in (*whole, *results, a.unique()[:9], half, turned)]

torch.testing.assert_close(train("mps"), train("cpu"), rtol=1e-4, atol=1e-5)
for mine, expected in zip(others("mps"), others("cpu"), strict=True):
    torch.testing.assert_close(mine, expected, rtol=1.6e-2 if mine.dtype == torch.bfloat16 else 1e-4, atol=1e-4)
from portable_mps.runtime import device
print(device.current().adapter.subgroup_size)
"""


def _trained(cache, **environment):
    """The subgroup's size where a network was trained as on the CPU, and what its kernels needed."""
    printed = output_of(NETWORK, PORTABLE_MPS_CACHE=str(cache), PORTABLE_MPS_QUIET="1", **environment)
    return int(printed), spirv.kept(cache)


def test_the_least_adapter(tmp_path):
    _, kernels = _trained(tmp_path, PORTABLE_MPS_HIDE=LEAST)
    assert len(kernels) > 30
    for name, needs in kernels.items():
        assert not needs.features & set(LEAST.split(",")), f"{name} needs {needs.features}"
        assert needs.shared <= 16384, f"{name} takes {needs.shared} bytes of shared memory"
        assert needs.push_constants <= 128, f"{name} takes {needs.push_constants} bytes of push constants"


@pytest.mark.parametrize("bits", [128, 512])
def test_other_subgroups(tmp_path, bits):
    if not adapter.choose().is_software:
        pytest.skip("only Mesa's software driver can be told its subgroup's size")
    size, _ = _trained(tmp_path, LP_NATIVE_VECTOR_WIDTH=str(bits))
    assert size == bits // 32


REFUSED = """
import sys, torch
def says(function):
    try:
        print("nothing, but returned", function())
    except Exception as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0]}")
says(lambda: torch.ones(2, dtype=torch.float64, device="mps"))
says(lambda: torch.ones(2, device="mps").double())
says(lambda: torch.ones(2, device="mps").half())
x = torch.ones(1, 1, 4, 4, device="mps", dtype=getattr(torch, sys.argv[1]), requires_grad=True)
says(lambda: torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect").sum().backward())
"""
FLOAT64 = (
    "TypeError: Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use "
    "float32 instead."
)


def test_what_is_hidden_is_refused_by_name():
    lines = output_of(REFUSED, "float32", PORTABLE_MPS_HIDE="float64,float16").splitlines()
    assert lines[:2] == [FLOAT64] * 2
    assert lines[2].startswith("NotImplementedError: Trying to use torch.float16 on the MPS device, whose adapter")
    assert lines[3] == "nothing, but returned None"


@pytest.mark.skipif(not adapter.choose().features["float64"], reason="the adapter has no float64")
def test_operators_without_their_atomics_say_so():
    lines = output_of(REFUSED, "float64", PORTABLE_MPS_HIDE="int64_atomics").splitlines()
    assert lines[3].startswith("NotImplementedError: reflection_pad2d_backward of torch.float64 needs 64-bit atomics")


@pytest.mark.parametrize("feature", ["storage8", "storage16", "shaderInt16"])
def test_an_adapter_that_cannot_run_the_kernels(feature):
    done = run_script("import torch; torch.ones(1, device='mps')", PORTABLE_MPS_HIDE=feature)
    assert done.returncode == 1
    assert f"lacks {feature}" in done.stderr.splitlines()[-1]
    assert "NoAdapterError" in done.stderr.splitlines()[-1]
    script = "import torch; print(torch.backends.mps.is_available())"
    assert output_of(script, PORTABLE_MPS_HIDE=feature) == "False"


@pytest.mark.parametrize("setting", ["float65", "push_constants=64", "float64=1", "shared"])
def test_a_wrong_name(setting):
    done = run_script("import torch; torch.ones(1, device='mps')", PORTABLE_MPS_HIDE=f"float64,{setting}")
    assert f"RuntimeError: invalid PORTABLE_MPS_HIDE '{setting}': expected float16, float64" in done.stderr


def test_info_says_what_is_hidden():
    script = "import sys; from portable_mps import info; print(info.report())"
    printed = output_of(script, PORTABLE_MPS_HIDE="float64, shared=16384")
    assert "hidden         float64, shared=16384" in printed
    assert "16 KiB shared a workgroup" in printed
