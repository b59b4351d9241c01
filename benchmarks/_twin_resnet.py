"""ResNet50 in plain PyTorch (He et al. 2016, arXiv 1512.03385; stride in the 3x3 convolution): a baseline.

Layers, names and initialisation are torchvision's. `python _twin_resnet.py FOLDER` is the twin's side of a
race: it trains on the images and labels in FOLDER/batch.npz.
"""

from _report import ROOT  # noqa: F401 - puts the repository on the path

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from engine.runtime import usable_cores

LAYERS = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norms, and a shortcut around them."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride != 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride=stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B,4 width,H / stride,W / stride] for `x` [B,C,H,W]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = functional.relu(self.bn2(self.conv2(x)), inplace=True)
        return functional.relu(self.bn3(self.conv3(x)) + shortcut, inplace=True)


class ResNet50(nn.Module):
    """The network up to its pooled features [B,2048]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = 64
        for number, (width, blocks, stride) in enumerate(LAYERS, start=1):
            layer = [Bottleneck(inputs, width, stride)]
            layer += [Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*layer))
            inputs = 4 * width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features [B,2048] of images `x` [B,3,H,W]."""
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x)), inplace=True))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return x.mean(dim=(2, 3))


def main() -> None:
    torch.set_num_threads(usable_cores())
    torch.manual_seed(0)
    data = np.load(Path(sys.argv[1]) / "batch.npz")
    images, labels = torch.from_numpy(data["images"]), torch.from_numpy(data["labels"])
    model = ResNet50()
    classifier = nn.Linear(2048, int(data["classes"]))
    parameters = [*model.parameters(), *classifier.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)
    while sys.stdin.readline():
        started = time.perf_counter()
        loss = functional.cross_entropy(classifier(model(images)), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        value = loss.item()
        per_second = len(images) / (time.perf_counter() - started)
        print(json.dumps({"per_second": per_second, "loss": value}), flush=True)


if __name__ == "__main__":
    main()
