"""torch.save and torch.load, pickling, deep copies, state_dict."""

import copy
import io
import pickle

import pytest
import torch
from processes import output_of

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool, torch.float64]


def reloaded(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_come_back_where_they_were(dtype):
    x = (torch.arange(12) % 3).to(dtype).view(3, 4)
    back = reloaded(x.to("mps"))
    assert back.device.type == "mps" and back.dtype == dtype and back.cpu().equal(x)


def test_map_location():
    x = torch.randn(5)
    assert reloaded(x.to("mps"), map_location="cpu").equal(x)
    assert reloaded(x, map_location="mps").device.type == "mps"
    assert reloaded(x, map_location=torch.device("mps")).cpu().equal(x)


def test_views_share_their_storage_again():
    x = torch.zeros(6, device="mps")
    whole, part = reloaded([x, x[2:4]])
    part.fill_(1)
    assert whole.tolist() == [0, 0, 1, 1, 0, 0]


def test_strides_survive():
    x = torch.arange(6.0).view(2, 3).to("mps").t()
    back = reloaded(x)
    assert back.stride() == x.stride() and back.cpu().equal(x.cpu())


def test_pickle_and_deepcopy():
    x = torch.randn(4, 5, device="mps")
    assert pickle.loads(pickle.dumps(x)).cpu().equal(x.cpu())
    model = torch.nn.Linear(3, 2).to("mps")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.weight.zero_()
    assert other.weight.device.type == "mps" and model.weight.abs().sum().item() > 0


def test_state_dict_of_a_model_and_its_optimizer():
    def made():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1)).to("mps")
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(model, optimizer):
        loss = model(torch.linspace(-1, 1, 32, device="mps").view(8, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    model, optimizer = made()
    step(model, optimizer)
    saved = reloaded({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, map_location="cpu")
    straight = [step(model, optimizer) for _ in range(2)]
    model, optimizer = made()
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    assert [step(model, optimizer) for _ in range(2)] == pytest.approx(straight, rel=1e-5)


def test_a_file_from_the_device_opens_without_one(tmp_path):
    torch.save(torch.arange(3, device="mps"), tmp_path / "x.pt")
    source = "import sys, torch; print(torch.load(sys.argv[1], map_location='cpu').tolist())"
    assert output_of(source, str(tmp_path / "x.pt"), PORTABLE_MPS="0") == "[0, 1, 2]"
