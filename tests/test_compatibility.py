"""The mends of other libraries: how they are applied, and that each does what its row says."""

import importlib
import importlib.util
import sys
import textwrap

import pytest
from processes import output_of, run_script

from portable_mps import compatibility


def test_every_mend_names_a_function():
    for mend in compatibility.MENDS:
        file, _, name = mend.function.partition(".")
        assert callable(getattr(importlib.import_module(f"portable_mps.compatibility.{file}"), name)), mend
        assert mend.reason


def test_import_torch_imports_no_library_and_only_the_mend_of_what_it_imports():
    source = """
import sys, torch
from portable_mps import compatibility
print([m.module for m in compatibility.MENDS if m.module in sys.modules])
print([name for name in sys.modules if name.startswith("portable_mps.compatibility.")])
"""
    mended, ours = (eval(line) for line in output_of(source).splitlines())
    assert mended == [
        "torch._subclasses.fake_impls",
        "torch.distributed.distributed_c10d",
        "torch.nn.modules.batchnorm",
        "torch.nn.parallel.distributed",
    ]
    assert set(ours) == {f"portable_mps.compatibility.{name}" for name in ("inductor", "distributed", "rescoping")}


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A package `some_library` with a mended module that says what `answer` is; the mend is this test's."""
    folder = tmp_path / "some_library"
    folder.mkdir()
    (folder / "__init__.py").write_text("from some_library import inner\n")
    (folder / "inner.py").write_text("def answer():\n    return 'no'\n")
    mend = compatibility.Mend("some_library.inner", "it says no", "lightning.say_yes")
    monkeypatch.setattr(compatibility, "MENDS", (mend,))
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("some_library")]:
        del sys.modules[name]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Waiting)]


class Waiting(compatibility._Finder):
    """The finder of one test, so that it can be told from the process's own."""


def mended(module):
    module.answer = lambda: "yes"


@pytest.mark.parametrize("before", [True, False], ids=["imported before", "imported after"])
def test_a_module_is_mended(library, monkeypatch, before):
    from portable_mps.compatibility import lightning

    monkeypatch.setattr(lightning, "say_yes", mended, raising=False)
    monkeypatch.setattr(compatibility, "_Finder", Waiting)
    if before:
        importlib.import_module("some_library")
    compatibility.watch()
    module = importlib.import_module("some_library").inner
    assert module.answer() == "yes"
    assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"
    assert importlib.util.find_spec("some_library.missing") is None


def test_a_mend_that_fails_leaves_the_library_usable(library, monkeypatch):
    from portable_mps.compatibility import lightning

    monkeypatch.setattr(lightning, "say_yes", lambda module: module.absent, raising=False)
    monkeypatch.setattr(compatibility, "_Finder", Waiting)
    compatibility.watch()
    with pytest.warns(UserWarning, match=r"could not mend some_library\.inner \(it says no\): AttributeError"):
        module = importlib.import_module("some_library").inner
    assert module.answer() == "no"


def test_info_lists_the_mends_of_what_is_installed(library, monkeypatch):
    from portable_mps import info

    assert "mended         some_library.inner: it says no" in info.report()
    monkeypatch.setattr(compatibility, "MENDS", (compatibility.Mend("absent_library.a", "why", "a.b"),))
    assert "mended" not in info.report()


LIGHTNING = """
{imports}
from {fabric} import Fabric
from {pytorch}.accelerators import AcceleratorRegistry, MPSAccelerator
import torch, tempfile

class Model({pytorch}.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
    def training_step(self, batch, number):
        assert batch[0].is_mps
        loss = torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
        self.log("loss", loss, prog_bar=True)
        return loss
    def validation_step(self, batch, number):
        self.log("checked", torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1]))
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.05)

torch.manual_seed(0)
data = torch.utils.data.TensorDataset(x := torch.randn(32, 4), (x[:, 0] > 0).long())
loader = torch.utils.data.DataLoader(data, 8)
for accelerator, devices, kind in (("mps", 1, "32-true"), ("auto", "auto", "16-mixed"), ("gpu", [0], "bf16-mixed")):
    logger = {pytorch}.loggers.CSVLogger(tempfile.mkdtemp())
    trainer = {pytorch}.Trainer(
        accelerator=accelerator, devices=devices, precision=kind, max_epochs=4, log_every_n_steps=1, logger=logger,
        callbacks=[{pytorch}.callbacks.DeviceStatsMonitor()], default_root_dir=tempfile.mkdtemp(),
    )
    model = Model()
    trainer.fit(model, loader, loader)
    assert type(trainer.accelerator).__name__ == "MPSAccelerator", trainer.accelerator
    assert str(trainer.strategy.root_device) == "mps:0" and trainer.num_devices == 1
    assert trainer.callback_metrics["checked"] < 0.5, trainer.callback_metrics
    assert any("M1_vm_percent" in key for key in logger.experiment.metrics_keys), logger.experiment.metrics_keys
fabric = Fabric(accelerator="mps", devices=1, precision="16-mixed")
fabric.launch()
layer = torch.nn.Linear(4, 2)
layer, optimizer = fabric.setup(layer, torch.optim.SGD(layer.parameters(), 0.1))
loss = layer(fabric.to_device(torch.randn(3, 4))).square().mean()
fabric.backward(loss)
optimizer.step()
assert loss.is_mps and str(fabric.device) == "mps:0", fabric.device
print("fine")
"""


def _missing(*packages):
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"{' and '.join(absent)} not installed")


NAMES = [
    pytest.param("lightning.fabric", "lightning.pytorch", marks=_missing("lightning", "psutil")),
    pytest.param("lightning_fabric", "pytorch_lightning", marks=_missing("pytorch_lightning", "psutil")),
]


@pytest.mark.slow
@pytest.mark.parametrize("first", ["torch", "library"])
@pytest.mark.parametrize("fabric,pytorch", NAMES)
def test_lightning(fabric, pytorch, first):
    imports = f"import torch\nimport {pytorch}" if first == "torch" else f"import {pytorch}"
    source = textwrap.dedent(LIGHTNING).format(imports=imports, fabric=fabric, pytorch=pytorch)
    done = run_script(source)
    assert done.returncode == 0 and done.stdout.endswith("fine\n"), done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.parametrize("fabric,pytorch", NAMES)
def test_lightning_can_still_be_kept_off_the_device(fabric, pytorch):
    source = f"from {pytorch}.accelerators import MPSAccelerator; print(MPSAccelerator.is_available())"
    assert output_of(source, DISABLE_MPS="1").split()[-1] == "False"
    assert output_of(source).split()[-1] == "True"


ACCELERATE = """
from types import SimpleNamespace
import accelerate.commands.env as env
import torch
env.env_command(SimpleNamespace(config_file=None))
print("name:", torch.backends.mps.get_name())
"""


@_missing("accelerate")
def test_accelerate_names_the_adapter():
    lines = output_of(ACCELERATE).splitlines()
    assert f"- MPS type: {lines[-1].removeprefix('name: ')}" in lines
    assert any(line.startswith("- Platform: ") for line in lines)
