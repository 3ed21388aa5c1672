"""What the constructions aim at: small networks trained here, and the images they are measured on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from supermask.data import Dataset, Loader, iterate_eval
from supermask.theory.attention import Attention
from supermask.training.loop import Schedule, fit
from supermask.weights.init import randomize_

BATCH_SIZE = 64
LEARNING_RATE = 5e-3
"""Of Adam with a cosine schedule."""


@dataclass(frozen=True, eq=False)
class Target:
    """A trained network in float64, and test images as it takes them.

    Attributes:
        network: What is to be met. Its last linear layer gives the logits.
        inputs: (M, …) float64.
        labels: (M,) int64.
    """

    network: nn.Sequential
    inputs: Tensor
    labels: Tensor


def train_perceptron(data: Dataset, hidden: tuple[int, ...], epochs: float, images: int) -> Target:
    """A ReLU network without biases on images of norm 1, every layer scaled to spectral norm 1.

    Images are normalized as everywhere in the library and then divided by their norm, so that they lie on the
    unit sphere of the theorems and have entries of both signs. The scaling of layers is what Pensia's theorem
    asks; as ReLU passes positive factors, it changes the logits by one factor and no prediction.

    Args:
        data: Trained on `train`, measured on `test`.
        hidden: Widths of the hidden layers.
        epochs: Passes over the training images.
        images: Most test images to measure on.
    """
    widths = [data.in_channels * data.image_size**2, *hidden, data.num_classes]
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        modules += [nn.Linear(inputs, outputs, bias=False), nn.ReLU()]
    network = nn.Sequential(*modules[:-1])
    target = _train(network, data, epochs, images, to_sphere)
    with torch.no_grad():
        for weight in network.parameters():
            weight.div_(torch.linalg.matrix_norm(weight, ord=2))
    return target


def train_attention(data: Dataset, heads: int, head_width: int, epochs: float, images: int) -> Target:
    """Attention over the rows of an image, then a linear layer over all its outputs.

    The longest row of an image gets norm 1. An image of side s with c channels has s tokens of dimension c·s.
    """
    width = data.in_channels * data.image_size
    inner = heads * head_width
    query, key, value = (nn.Linear(width, inner, bias=False) for _ in range(3))
    attention = Attention(heads, query, key, value, nn.Linear(inner, width, bias=False))
    readout = nn.Linear(width * data.image_size, data.num_classes, bias=False)
    network = nn.Sequential(attention, nn.Flatten(), readout)
    return _train(network, data, epochs, images, to_rows)


def to_sphere(images: Tensor) -> Tensor:
    """(N, C, H, W) → (N, C·H·W) of norm 1."""
    flat = rearrange(images, "n c h w -> n (c h w)")
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-12)


def to_rows(images: Tensor) -> Tensor:
    """(N, C, H, W) → (N, H, C·W), the longest row of an image of norm 1."""
    rows = rearrange(images, "n c h w -> n h (c w)")
    return rows / rows.norm(dim=2).amax(dim=1).clamp_min(1e-12)[:, None, None]


def _train(
    network: nn.Sequential, data: Dataset, epochs: float, images: int, prepare: Callable[[Tensor], Tensor]
) -> Target:
    randomize_(network, "kaiming_normal", seed=0)
    loader = Loader(data.train, batch_size=BATCH_SIZE, seed=0, mean=data.mean, std=data.std)

    def batches(step: int) -> tuple[Tensor, Tensor]:
        inputs, labels = loader.batch(step)
        return prepare(inputs), labels

    steps = max(1, round(epochs * loader.steps_per_epoch))
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    fit(network, optimizer, batches, steps=steps, schedule=Schedule("cosine", steps))
    held = data.test.take(torch.arange(min(images, len(data.test))))
    inputs, labels = _join(iterate_eval(held, BATCH_SIZE, data.mean, data.std, dtype=torch.float64))
    return Target(network.double().requires_grad_(False).eval(), prepare(inputs), labels)


def _join(batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    inputs, labels = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(labels)
