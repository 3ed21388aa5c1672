"""What the integrations share: the digits, a network of one's own for them, and a search."""

import torch
from torch import Tensor, nn

import supermask as sm
from supermask.data import load_data


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test images (N, 1, 8, 8), float32, and labels."""
    data = load_data("digits")
    parts = (data.train, data.test)
    train, test = (((part.pixels.float() / 255 - 0.3) / 0.37, part.labels) for part in parts)
    return train, test


def network() -> nn.Module:
    """A perceptron whose weights are drawn from a seed and frozen."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 10))
    sm.randomize_(model, init="signed_constant", seed=0, density=0.5)
    return model


def search_of(model: nn.Module) -> sm.Search:
    """Edge-popup over all of its weights."""
    return sm.EdgePopup(model, density=0.5, lr=0.1, momentum=0.9)


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Fraction of the test images that are recognized."""
    _, (images, labels) = digits()
    return float((model.eval()(images).argmax(1) == labels).float().mean())
