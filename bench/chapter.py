# SPDX-License-Identifier: Apache-2.0
"""Train in the chapter's way, rewritten as the baseline for 03_Training.py.

Source of the method: Arm Learning Paths, "Train the digit recognizer": torchvision's ImageFolder, every image decoded
and transformed by itself in every epoch, normalised before augmentation, classes as frequent as in the data, AdamW
with a constant learning rate of 0.001.
"""

import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from digitnet_model import DigitNet

BATCH = 256
TO_INPUT = [transforms.Grayscale(1), transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
AUGMENTATION = [
    transforms.RandomApply([transforms.GaussianBlur(3)], p=0.15),
    transforms.RandomAffine(degrees=5, translate=(0.02, 0.02), scale=(0.95, 1.05)),
]


class Chapter:
    """A training run in the chapter's way; `model` is its network, unchanged."""

    def __init__(self, data: Path, seed: int = 0):
        torch.manual_seed(seed)
        self.loader = DataLoader(
            datasets.ImageFolder(data / "train", transforms.Compose(TO_INPUT + AUGMENTATION)), BATCH, shuffle=True
        )
        self.val_loader = DataLoader(datasets.ImageFolder(data / "val", transforms.Compose(TO_INPUT)), BATCH)
        self.model = DigitNet()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=1e-4)

    def train(self, steps: int | None = None) -> float:
        """Train for `steps` batches (None: an epoch); return images per second."""
        self.model.train()
        loss_of, images, start = nn.CrossEntropyLoss(), 0, time.perf_counter()
        for number, (x, y) in enumerate(self.loader, 1):
            loss = loss_of(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            images += len(y)
            if number == steps:
                break
        return images / (time.perf_counter() - start)

    def accuracy(self) -> float:
        """Return the fraction of validation cells that are right."""
        self.model.eval()
        with torch.no_grad():
            right = sum((self.model(x).argmax(1) == y).sum().item() for x, y in self.val_loader)
        return right / len(self.val_loader.dataset)
