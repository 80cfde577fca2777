"""Images: networks, detection, augmentation, diffusion."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from ecosystem.check import check, close, faint, moved, noise, runs, trains


@check("torchvision", "five classifiers, Faster R-CNN, Mask R-CNN and RetinaNet: training steps and predictions")
def torchvision() -> None:
    import torchvision
    from torchvision.models import detection
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    for name in ("resnet18", "mobilenet_v3_small", "efficientnet_b0", "vgg11", "swin_t"):
        torch.manual_seed(0)
        _classifies(getattr(torchvision.models, name)(weights=None, num_classes=5), 64)
    # The usual 50 layers take a software driver more than a minute a step of Mask R-CNN, most of it in matrix products.
    # Nor could they be compared: untrained, and normalised over so small an image, they magnify rounding so much that
    # the gradients of float32's second step are 5% from float64's on the CPU too. Hence fewer, normalised by groups.
    fewer = {"backbone_name": "resnet18", "weights": None, "trainable_layers": 5}
    fewer["norm_layer"] = lambda channels: torch.nn.GroupNorm(8, channels)
    options = {"num_classes": 3, "min_size": 64, "max_size": 80}
    regions = {"rpn_post_nms_top_n_train": 50, "rpn_post_nms_top_n_test": 20, "box_detections_per_img": 5}
    torch.manual_seed(0)
    _detects(detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, **options))
    backbone = resnet_fpn_backbone(**fewer, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    _detects(detection.RetinaNet(backbone, **options))
    _detects(detection.MaskRCNN(resnet_fpn_backbone(**fewer), box_batch_size_per_image=16, **regions, **options))


def _classifies(model: torch.nn.Module, size: int) -> None:
    """Evaluation, and the losses of two training steps."""
    image = noise(2, 3, size, size)
    for module in faint(model).modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    # Statistics of these images: with those that a model starts with, some outputs shrink to 1e-13 in evaluation.
    model.train()(image)
    expected = model.eval()(image)
    assert float(expected.abs().max()) > 1e-3, "nothing to compare"
    close(copy.deepcopy(model).to("mps")(image.to("mps")), expected, 2e-3)
    # Normalisation over as few as eight values: the CPU's second loss is up to 1e-3 from that in float64 itself.
    trains(model, (image,), steps=2, limit=5e-3)


def _detects(model: torch.nn.Module) -> None:
    """Predictions, and the losses and gradients of three steps, with the same samples of boxes on both devices."""
    boxes = torch.tensor([[4.0, 4, 30, 40], [20, 10, 60, 50]])
    masks = torch.zeros(2, 64, 70, dtype=torch.uint8)
    masks[0, 4:40, 4:30] = masks[1, 10:50, 20:60] = 1
    target = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}
    image, draw, results = noise(3, 64, 70), torch.randperm, []
    for device in ("mps", "cpu"):
        each = copy.deepcopy(model).to(device).eval()
        steps: list[Any] = [each(moved([image], device))]
        stepper = torch.optim.SGD(each.train().parameters(), lr=1e-3)
        torch.randperm = lambda n, device=None, **k: draw(n, generator=torch.Generator().manual_seed(n)).to(device)
        try:
            for _ in range(3):
                losses = each(*moved(([image], [target]), device))
                stepper.zero_grad()
                sum(losses.values()).backward()
                stepper.step()
                gradients = [p.grad for p in each.parameters() if p.grad is not None]
                steps.append(losses | {"gradient": torch.nn.utils.get_total_norm(gradients)})
        finally:
            torch.randperm = draw
        results.append(steps)
    close(*results, 5e-3)


@check("timm", "eight architectures: evaluation and training against the CPU")
def timm() -> None:
    import timm

    for name in ("resnet18", "efficientnet_b0", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050",
                 "regnetx_002", "mixer_s32_224", "swin_tiny_patch4_window7_224"):  # fmt: skip
        torch.manual_seed(0)
        size = {"img_size": 224} if "mixer" in name else {"img_size": 64} if "vit" in name or "swin" in name else {}
        model = timm.create_model(name, pretrained=False, num_classes=5, **size)
        model.reset_classifier(5)  # some start with a head of zeros, whose outputs would be equal whatever came before
        _classifies(model, size.get("img_size", 64))


def _draw(root: Path) -> Path:
    """A data set of squares and discs."""
    import cv2
    import numpy as np

    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(8):
            image, rows = np.full((64, 64, 3), 30, np.uint8), []
            for label in range(2):
                size = int(random.integers(14, 26))
                x, y = random.integers(0, 64 - size, 2).tolist()
                if label:
                    cv2.circle(image, (x + size // 2, y + size // 2), size // 2, (0, 255, 0), -1)
                else:
                    cv2.rectangle(image, (x, y), (x + size, y + size), (0, 0, 255), -1)
                rows.append(f"{label} {(x + size / 2) / 64} {(y + size / 2) / 64} {size / 64} {size / 64}")
            cv2.imwrite(str(root / "images" / split / f"{number}.png"), image)
            (root / "labels" / split / f"{number}.txt").write_text("\n".join(rows))
    path = root / "data.yaml"
    path.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: {{0: square, 1: disc}}\n")
    return path


@check("ultralytics", "YOLOv8 and YOLO11 with `device='mps'`: training with and without AMP, validation, prediction")
def ultralytics() -> None:
    os.environ["YOLO_OFFLINE"] = "true"
    import numpy as np
    from ultralytics import YOLO

    root = Path(tempfile.mkdtemp())
    data = str(_draw(root / "data"))
    options: dict[str, Any] = {
        "data": data,
        "imgsz": 64,
        "device": "mps",
        "workers": 0,
        "plots": False,
        "verbose": False,
    }
    for name, amp in (("yolov8n.yaml", False), ("yolo11n.yaml", True)):
        model = YOLO(name)
        model.train(**options, epochs=2, batch=4, amp=amp, project=str(root), pretrained=False)
        assert model.trainer.device.type == "mps"
        assert all(torch.as_tensor(loss).isfinite().all() for loss in tree_leaves(model.trainer.tloss))
        assert 0 <= model.val(**options).box.map <= 1
        found = model.predict([np.full((64, 64, 3), 30, np.uint8)], imgsz=64, device="mps", conf=1e-3, verbose=False)
        assert found[0].boxes.data.is_mps


@check("kornia", "filters, colour, warps, edges, augmentation against the CPU")
def kornia() -> None:
    import kornia as k

    image = noise(2, 3, 24, 24).sigmoid()
    for function in (lambda x: k.filters.gaussian_blur2d(x, (5, 5), (1.0, 1.0)), k.filters.sobel, k.color.rgb_to_hsv,
                     k.color.rgb_to_lab, lambda x: k.geometry.transform.rotate(x, torch.tensor(30.0, device=x.device)),
                     lambda x: k.filters.canny(x)[0], k.enhance.equalize, lambda x: k.morphology.dilation(
                         x, torch.ones(3, 3, device=x.device)), lambda x: k.filters.median_blur(x, 3)):  # fmt: skip
        runs(function, image, limit=2e-3)
    augment = k.augmentation.AugmentationSequential(
        k.augmentation.RandomHorizontalFlip(), k.augmentation.ColorJitter(0.2)
    )
    assert augment(image.to("mps")).is_mps


@check("monai", "a 3-D UNet with Dice loss trains; sliding windows; the Dice metric")
def monai() -> None:
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss
    from monai.metrics import DiceMetric
    from monai.networks.nets import UNet

    torch.manual_seed(0)
    model = UNet(spatial_dims=3, in_channels=1, out_channels=2, channels=(4, 8, 16), strides=(2, 2))
    volume, label = noise(1, 1, 16, 16, 16), (noise(1, 1, 16, 16, 16) > 0).float()
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    trains(model, (volume,), lambda output: loss(output, label.to(output.device)))
    model.eval()
    mine = sliding_window_inference(volume.to("mps"), (8, 8, 8), 2, copy.deepcopy(model).to("mps"))
    close(mine, sliding_window_inference(volume, (8, 8, 8), 2, model))
    runs(lambda x, y: DiceMetric()((x > 0).float(), y), volume, label)


@check("segmentation-models-pytorch", "Unet, FPN and DeepLabV3+ train with a Dice loss")
def segmentation_models() -> None:
    import segmentation_models_pytorch as smp

    label = (noise(2, 1, 64, 64) > 0).float()
    loss = smp.losses.DiceLoss("binary")
    for build in (smp.Unet, smp.FPN, smp.DeepLabV3Plus):
        torch.manual_seed(0)
        model = faint(build("resnet18", encoder_weights=None))
        trains(model, (noise(2, 3, 64, 64),), lambda output: loss(output, label.to(output.device)), steps=2, limit=5e-3)


@check(
    "diffusers",
    "a UNet trains and samples with DDIM, DPM-Solver and Euler steps; a DDPM pipeline; a VAE, in float16 too",
)
def diffusers() -> None:
    import diffusers

    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(sample_size=16, block_out_channels=(16, 32), norm_num_groups=4, layers_per_block=1,
                                 down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                                 up_block_types=("AttnUpBlock2D", "UpBlock2D"))  # fmt: skip
    trains(unet, (noise(2, 3, 16, 16), torch.tensor([3, 7])), lambda output: output.sample.square().mean())
    for scheduler in (diffusers.DDIMScheduler, diffusers.DPMSolverMultistepScheduler, diffusers.EulerDiscreteScheduler):
        samples = []
        for device in ("mps", "cpu"):
            model, steps = copy.deepcopy(unet).to(device).eval(), scheduler()
            steps.set_timesteps(4, device=device)
            sample = noise(2, 3, 16, 16).to(device) * steps.init_noise_sigma
            for t in steps.timesteps:
                with torch.no_grad():
                    predicted = model(steps.scale_model_input(sample, t), t).sample
                sample = steps.step(predicted, t, sample).prev_sample
            samples.append(sample)
        close(*samples, 5e-3)
    pipeline = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).to("mps")
    pipeline.set_progress_bar_config(disable=True)
    assert len(pipeline(num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images) == 1
    vae = diffusers.AutoencoderKL(block_out_channels=(16,), norm_num_groups=4, latent_channels=4).eval()
    close(copy.deepcopy(vae).to("mps")(noise(1, 3, 16, 16).to("mps")).sample, vae(noise(1, 3, 16, 16)).sample)
    assert vae.half().to("mps")(noise(1, 3, 16, 16).half().to("mps")).sample.isfinite().all()


@check("vit-pytorch", "ViT, SimpleViT and CaiT train")
def vit_pytorch() -> None:
    from vit_pytorch import SimpleViT, ViT
    from vit_pytorch.cait import CaiT

    options = {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 32, "depth": 2, "heads": 4, "mlp_dim": 48}
    for build in (ViT, SimpleViT):
        torch.manual_seed(0)
        trains(build(**options), (noise(2, 3, 32, 32),))
    torch.manual_seed(0)
    trains(CaiT(**options, cls_depth=1), (noise(2, 3, 32, 32),))
