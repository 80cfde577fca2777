"""Apple's snippet for the mps device, as it stands, in a process of its own: what everybody tries first."""

import os
import subprocess
import sys

NET = """
import torch

class YourFavoriteNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(5, 3)

    def forward(self, x):
        return torch.relu(self.linear(x))
"""

SNIPPET = """
import torch
if not torch.backends.mps.is_available():
    if not torch.backends.mps.is_built():
        print("MPS not available because the current PyTorch install was not built with MPS enabled.")
    else:
        print("MPS not available because the current MacOS version is not 12.3+ "
              "and/or you do not have an MPS-enabled device on this machine.")
else:
    mps_device = torch.device("mps")
    x = torch.ones(5, device=mps_device)   # or device="mps"
    y = x * 2                              # any operation happens on the GPU
    model = YourFavoriteNet()
    model.to(mps_device)
    pred = model(x)
"""

CHECK = """
assert str(y.device) == "mps:0" and y.tolist() == [2.0] * 5
torch.testing.assert_close(pred.cpu(), model.cpu()(x.cpu()))
print("ran on", pred.device)
"""


def test_snippet() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NET + SNIPPET + CHECK],
        env=os.environ | {"PORTABLE_MPS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "ran on mps:0\n"
