"""Train a convolutional network on scikit-learn's handwritten digits (1,797 real scans of 8 x 8 pixels).

Prints the test accuracy and the speed, draws digits.png, and exits with status 1 below 97% accuracy.
"""

import argparse
import re
import sys
import time
import warnings

import matplotlib
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from tqdm import tqdm

matplotlib.use("Agg")  # draw to a file: no display needed
import matplotlib.pyplot as plt

REQUIRED_ACCURACY = 0.97


class DigitNet(nn.Module):
    """(N, 1, 8, 8) scans to (N, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.25), nn.Linear(32 * 2 * 2, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images))


def load_data(device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training images and labels, test images and labels; a quarter is for the test, all classes alike."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    train, test = train_test_split(range(len(labels)), test_size=0.25, stratify=labels, random_state=0)
    return tuple(part.to(device) for part in (images[train], labels[train], images[test], labels[test]))


def train(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, epochs: int, batch: int, steps: int | None
) -> tuple[list[float], float]:
    """The loss of every step, and images a second."""
    per_epoch = len(images) // batch
    total = min(epochs * per_epoch, steps or sys.maxsize)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=epochs * per_epoch)
    losses: list[torch.Tensor] = []
    model.train()
    start = time.perf_counter()
    with tqdm(total=total, unit="step", desc="training") as progress:
        while len(losses) < total:
            order = torch.randperm(len(images), device=images.device)
            for rows in order[: per_epoch * batch].split(batch)[: total - len(losses)]:
                loss = F.cross_entropy(model(images[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.detach())  # stays on the device: reading it would wait for the device
                progress.update()
                if len(losses) % 10 == 0 or len(losses) == total:
                    progress.set_postfix(loss=f"{loss.item():.3f}")
    history = torch.stack(losses).tolist()
    return history, total * batch / (time.perf_counter() - start)


@torch.no_grad()
def predict(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    model.eval()
    return model(images).argmax(dim=1)


def draw(path: str, losses: list[float], images: torch.Tensor, labels: torch.Tensor, predictions: torch.Tensor) -> None:
    """The loss curve, and 24 test images with their predictions (mistakes first, in red)."""
    images, labels, predictions = images.cpu().squeeze(1), labels.cpu(), predictions.cpu()
    shown = (predictions == labels).int().argsort(stable=True)[:24].tolist()
    figure = plt.figure(figsize=(11, 4), layout="constrained")
    curve, grid = figure.subfigures(1, 2)
    axes = curve.subplots()
    axes.plot(losses)
    axes.set(title="training loss", xlabel="step", ylabel="cross entropy", yscale="log")
    for axes, row in zip(grid.subplots(4, 6).flat, shown, strict=True):
        right = predictions[row] == labels[row]
        axes.imshow(images[row], cmap="gray_r")
        axes.set_title(str(predictions[row].item()), color="black" if right else "red", fontsize=9)
        axes.axis("off")
    grid.suptitle("predictions on test images (mistakes first, in red)")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def fallen_back(caught: list[warnings.WarningMessage]) -> set[str]:
    """The operators that PyTorch said it ran on the CPU, not on the device."""
    pattern = re.compile(r"operator '([^']+)' is not currently supported on the MPS backend and will fall back")
    return {match[1] for warning in caught if (match := pattern.search(str(warning.message)))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="mps")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, help="stop after so many steps; the accuracy is then not judged")
    parser.add_argument("--out", default="digits.png", help="the picture to write")
    options = parser.parse_args()

    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train_images, train_labels, test_images, test_labels = load_data(options.device)
        model = DigitNet().to(options.device)
        losses, speed = train(
            model, train_images, train_labels, epochs=options.epochs, batch=options.batch, steps=options.steps
        )
        predictions = predict(model, test_images)
        accuracy = (predictions == test_labels).float().mean().item()
    for warning in caught:
        print(warning.message, file=sys.stderr)
    fallbacks = fallen_back(caught)
    draw(options.out, losses, test_images, test_labels, predictions)

    print(f"adapter           {torch.backends.mps.get_name() if options.device == 'mps' else options.device}")
    print(f"final loss        {losses[-1]:.4f}")
    print(f"test accuracy     {accuracy:.2%} of {len(test_labels)} images")
    print(f"speed             {speed:.0f} images/s")
    print(f"operators on CPU  {len(fallbacks)} {' '.join(sorted(fallbacks))}")
    print(f"picture           {options.out}")
    if options.steps is None and accuracy < REQUIRED_ACCURACY:
        print(f"The accuracy is below {REQUIRED_ACCURACY:.0%}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
