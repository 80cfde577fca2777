"""Trainers, and what is used beside them."""

from __future__ import annotations

import tempfile
from typing import Any

import torch

from ecosystem.check import check, close, noise, runs, trains


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


def _examples() -> tuple[torch.Tensor, torch.Tensor]:
    x = noise(64, 8)
    return x, x[:, :3].argmax(1)


def _learned(network: torch.nn.Module) -> None:
    x, y = _examples()
    device = next(network.parameters()).device
    assert device.type == "mps", device
    accuracy = (network(x.to(device)).argmax(1).cpu() == y).float().mean()
    assert accuracy > 0.7, accuracy


def _lightning(package: Any, fabric: Any) -> None:
    class Model(package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = _network()

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            loss = torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])
            self.log("loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), 0.02)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*_examples()), 16, shuffle=True)
    for precision in ("32-true", "16-mixed", "bf16-mixed"):
        model = Model()
        folder = tempfile.mkdtemp()
        trainer = package.Trainer(precision=precision, max_epochs=12, default_root_dir=folder, logger=False)
        trainer.fit(model, data)
        assert type(trainer.accelerator).__name__ == "MPSAccelerator"
        _learned(model.network.to("mps"))
    each = fabric(accelerator="mps", devices=1)
    each.launch()
    network = _network()
    network, optimizer = each.setup(network, torch.optim.AdamW(network.parameters()))
    each.backward(network(each.to_device(noise(4, 8))).square().mean())
    optimizer.step()


@check("lightning", "`Trainer` with its default accelerator in three precisions, checkpoints; `Fabric`")
def lightning() -> None:
    import lightning.pytorch
    from lightning.fabric import Fabric

    _lightning(lightning.pytorch, Fabric)


@check("pytorch-lightning", "`Trainer` with its default accelerator in three precisions, checkpoints; `Fabric`")
def pytorch_lightning() -> None:
    import pytorch_lightning
    from lightning_fabric import Fabric

    _lightning(pytorch_lightning, Fabric)


@check("accelerate", "`Accelerator` with and without fp16 and bf16, gradient accumulation, clipping, checkpoints")
def accelerate() -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    for precision in ("no", "fp16", "bf16"):
        AcceleratorState._reset_state(True)
        accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=2)
        assert accelerator.device.type == "mps"
        network = _network()
        optimizer = torch.optim.AdamW(network.parameters(), 0.02)
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*_examples()), 16)
        network, optimizer, data = accelerator.prepare(network, optimizer, data)
        for _ in range(25):
            for x, y in data:
                with accelerator.accumulate(network):
                    accelerator.backward(torch.nn.functional.cross_entropy(network(x), y))
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(network.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
        _learned(accelerator.unwrap_model(network, keep_fp32_wrapper=False))
        folder = tempfile.mkdtemp()
        accelerator.save_state(folder)
        accelerator.load_state(folder)


def _bert() -> torch.nn.Module:
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                     intermediate_size=48, num_labels=3)  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def _sentences() -> list[dict[str, torch.Tensor]]:
    words = torch.randint(3, 64, (32, 8), generator=torch.Generator().manual_seed(0))
    return [
        {"input_ids": row, "attention_mask": torch.ones(8, dtype=torch.long), "labels": row[0] % 3} for row in words
    ]


@check(
    "transformers",
    "`Trainer`: training in float32 and bf16, evaluation, checkpoints ([models.md](models.md) has the models)",
)
def transformers() -> None:
    import transformers

    for options in ({}, {"bf16": True}, {"fp16": True}):
        arguments = transformers.TrainingArguments(tempfile.mkdtemp(), max_steps=30, per_device_train_batch_size=8,
            report_to=[], learning_rate=3e-3, save_steps=15, logging_steps=10, **options)  # fmt: skip
        assert arguments.device.type == "mps"
        trainer = transformers.Trainer(_bert(), arguments, train_dataset=_sentences(), eval_dataset=_sentences())
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        assert trainer.evaluate()["eval_loss"] < before


@check("peft", "LoRA and IA3 of a BERT: forward, training, merging", "transformers")
def peft() -> None:
    import peft

    for config in (peft.LoraConfig(target_modules=["query", "value"], r=4, init_lora_weights=False),
                   peft.IA3Config(target_modules=["key", "value"], feedforward_modules=[])):  # fmt: skip
        torch.manual_seed(0)
        model = peft.get_peft_model(_bert().eval(), config).eval()
        words = torch.stack([s["input_ids"] for s in _sentences()])
        theirs = model(input_ids=words).logits
        model.to("mps")
        mine = model(input_ids=words.to("mps")).logits
        close(mine, theirs)
        mine.square().mean().backward()
        close(model.merge_and_unload()(input_ids=words.to("mps")).logits, theirs)


@check("datasets", "`Dataset.with_format('torch', device='mps')` through a DataLoader")
def datasets() -> None:
    from datasets import Dataset

    data = Dataset.from_dict({"x": [[float(i), 1.0] for i in range(8)], "y": list(range(8))})
    loader = torch.utils.data.DataLoader(data.with_format("torch", device="mps"), batch_size=4)
    batches = list(loader)
    assert batches[1]["x"].is_mps and batches[1]["y"].tolist() == [4, 5, 6, 7]


@check("torchmetrics", "accuracy, F1, confusion matrix, AUROC, SSIM, correlation, across updates")
def torchmetrics() -> None:
    import torchmetrics as tm

    scores, labels = noise(50, 4).softmax(1), torch.arange(50) % 4
    for metric in (tm.Accuracy("multiclass", num_classes=4), tm.F1Score("multiclass", num_classes=4, average="macro"),
                   tm.ConfusionMatrix("multiclass", num_classes=4), tm.AUROC("multiclass", num_classes=4),
                   tm.AveragePrecision("multiclass", num_classes=4),
                   tm.CalibrationError("multiclass", num_classes=4)):  # fmt: skip
        results = []
        for device in ("mps", "cpu"):
            each = metric.clone().to(device)
            for part in range(2):
                each.update(scores[part::2].to(device), labels[part::2].to(device))
            results.append(each.compute())
        close(*results)
    runs(
        lambda a, b: tm.functional.image.structural_similarity_index_measure(a, b),
        noise(2, 3, 32, 32),
        noise(2, 3, 32, 32) + 1,
    )
    runs(lambda a, b: tm.functional.pearson_corrcoef(a, b), noise(40), noise(40).roll(1))


@check("skorch", "`NeuralNetClassifier(device='mps')` in a grid search", "scikit-learn")
def skorch() -> None:
    from sklearn.model_selection import GridSearchCV
    from skorch import NeuralNetClassifier

    torch.manual_seed(0)
    network = NeuralNetClassifier(
        _network, max_epochs=60, lr=0.1, device="mps", verbose=0, criterion=torch.nn.CrossEntropyLoss
    )
    search = GridSearchCV(network, {"lr": [0.1, 0.2]}, cv=2)
    x, y = _examples()
    search.fit(x.numpy(), y.numpy())
    assert search.best_score_ > 0.5
    _learned(search.best_estimator_.module_)


@check("pytorch-ignite", "supervised trainer and evaluator with metrics")
def ignite() -> None:
    from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.metrics import Accuracy, Loss

    network = _network().to("mps")
    loss = torch.nn.CrossEntropyLoss()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*_examples()), 16)
    trainer = create_supervised_trainer(network, torch.optim.AdamW(network.parameters(), 0.02), loss, device="mps")
    evaluator = create_supervised_evaluator(network, {"accuracy": Accuracy(), "loss": Loss(loss)}, device="mps")
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: evaluator.run(data))
    trainer.run(data, max_epochs=15)
    assert evaluator.state.metrics["accuracy"] > 0.7
    _learned(network)


@check("fastai", "`Learner.fit_one_cycle` with its default device")
def fastai() -> None:
    import fastai.callback.all  # noqa: F401  (it gives `Learner` its methods)
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.metrics import accuracy
    from fastai.torch_core import default_device

    assert default_device().type == "mps"
    data = torch.utils.data.TensorDataset(*_examples())
    learner = Learner(DataLoaders.from_dsets(data, data, bs=16, device=default_device()), _network(), metrics=accuracy,
                      loss_func=torch.nn.CrossEntropyLoss())  # fmt: skip
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(12, 0.02)
    _learned(learner.model)


@check("optuna", "a study over learning rates")
def optuna() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    x, y = (t.to("mps") for t in _examples())

    def objective(trial: Any) -> float:
        network = _network().to("mps")
        optimizer = torch.optim.SGD(network.parameters(), trial.suggest_float("lr", 1e-3, 0.5, log=True))
        for _ in range(10):
            loss = torch.nn.functional.cross_entropy(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    study = optuna.create_study()
    study.optimize(objective, 5)
    assert study.best_value < 1.1


@check("lion-pytorch", "the Lion optimiser")
def lion() -> None:
    from lion_pytorch import Lion

    trains(_network(), (_examples()[0],), optimizer=Lion)


@check("safetensors", "a round trip of six dtypes, loaded on to the device")
def safetensors() -> None:
    from safetensors.torch import load_file, save_file

    path = tempfile.mkdtemp() + "/a.safetensors"
    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    tensors = {str(dtype): (noise(5, 3) * 3).to(dtype) for dtype in dtypes}
    save_file({k: v.to("mps") for k, v in tensors.items()}, path)
    loaded = load_file(path, device="mps")
    close([loaded[name] for name in tensors], list(tensors.values()), 0)


@check("bitsandbytes", "an 8-bit optimiser and a 4-bit layer")
def bitsandbytes() -> None:
    import bitsandbytes as bnb

    layer = bnb.nn.Linear4bit(64, 32, compute_dtype=torch.float32).to("mps")
    layer(noise(4, 64).to("mps")).sum().backward()
    network = _network().to("mps")
    optimizer = bnb.optim.AdamW8bit(network.parameters())
    network(noise(4, 8).to("mps")).sum().backward()
    optimizer.step()
