"""Contrastive learning without labels: an untrained subnetwork whose features serve a linear classifier.

    python examples/contrastive.py --data mnist --out runs/contrastive

SimCLR (Chen et al. 2020, arXiv 2002.05709): two views of an image, cropped, mirrored and recoloured, shall
have similar codes, different from those of all other images of the batch. Labels are seen only afterwards:
the encoder stands still, the projection head is thrown away, and a linear classifier is fitted to the
features of training images. `untrained` is the dense network as initialized: random features are good ones.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from _trio import Example, OnStep, parser, row, start, trio, write_result
from adversarial import Normalize, spread
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import supermask as sm
from supermask.data import Dataset, Images, Loader, iterate_eval, load_data
from supermask.training.loop import Schedule, autocast

BATCH = 256
TEMPERATURE = 0.2
CODE = 64


class Network(nn.Module):
    """Images (B, C, H, W) in [0, 1] → codes (B, `CODE`), through `encoder`, whose features are the aim."""

    def __init__(self, data: Dataset, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [Normalize(data)]
        channels = data.in_channels
        for factor in (1, 2, 4):
            layers += [nn.Conv2d(channels, factor * width, 3, stride=2, padding=1), nn.ReLU()]
            channels = factor * width
        self.encoder = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, CODE))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images))


def view(images: Tensor) -> Tensor:
    """Part of each image, if it has colours perhaps mirrored, with other brightness, contrast and colours."""
    count, coloured = len(images), images.shape[1] == 3

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(count, 1, 1, 1).uniform_(low, high)

    side = draw(0.25, 1.0).sqrt().flatten()
    window = torch.zeros(count, 2, 3)
    window[:, 0, 0] = side * torch.where(torch.rand(count) < 0.5, -1.0, 1.0) if coloured else side
    window[:, 1, 1] = side
    window[:, :, 2] = (1 - side[:, None]) * torch.empty(count, 2).uniform_(-1, 1)
    grid = F.affine_grid(window, list(images.shape), align_corners=False)
    seen = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    grey = seen.mean(1, keepdim=True)
    saturation = draw(0.4, 1.6) * (torch.rand(count, 1, 1, 1) < 0.8)  # every fifth has no colours
    seen = grey + saturation * (seen - grey)
    middle = seen.mean((1, 2, 3), keepdim=True)
    return (draw(0.6, 1.4) * (seen - middle) + draw(0.6, 1.4) * middle).clamp(0, 1)


def nt_xent(first: Tensor, second: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Equation 1 of the paper, mean over both views of every image; codes are (B, D)."""
    codes = F.normalize(torch.cat([first, second]), dim=1)
    count = len(codes)
    itself = torch.eye(count, dtype=torch.bool)
    similarity = (codes @ codes.T / temperature).masked_fill(itself, -torch.inf)
    return F.cross_entropy(similarity, (torch.arange(count) + len(first)) % count)


def loop(
    model: nn.Module,
    optimizer: Optimizer,
    first: int,
    on_step: OnStep,
    *,
    batches: Callable[[int], tuple[Tensor, Tensor]],
    steps: int,
) -> None:
    """Two views, their codes, a step; the learning rate falls to zero."""
    torch.manual_seed(first)
    rate = Schedule("cosine", steps, warmup=steps // 20)
    schedule = LambdaLR(optimizer, lambda done: rate(first + done))
    for step in range(first, steps):
        images, _ = batches(step)
        with autocast(images.device, "bf16"):
            codes = model(torch.cat([view(images), view(images)]))
        optimizer.zero_grad()
        nt_xent(*codes.float().chunk(2)).backward()
        optimizer.step()
        schedule.step()
        on_step(step + 1)


@torch.no_grad()
def features(model: nn.Module, images: Images) -> Tensor:
    """What the encoder makes of images, (N, D)."""
    channels = images.pixels.shape[1]
    batches = iterate_eval(images, 500, [0.0] * channels, [1.0] * channels)
    return torch.cat([model.encoder(inputs) for inputs, _ in batches])


def probe(known: Tensor, labels: Tensor, seen: Tensor, truth: Tensor) -> float:
    """Accuracy on `seen` of a linear classifier of standardized features, fitted to `known`."""
    mean, std = known.mean(0), known.std(0) + 1e-6
    known, seen = (known - mean) / std, (seen - mean) / std
    classifier = nn.Linear(known.shape[1], int(labels.max()) + 1)
    nn.init.zeros_(classifier.weight)
    fit = torch.optim.LBFGS(classifier.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> float:
        fit.zero_grad()
        loss = F.cross_entropy(classifier(known), labels) + 1e-4 * classifier.weight.square().sum()
        loss.backward()
        return loss.item()

    fit.step(closure)
    return float((classifier(seen).argmax(1) == truth).float().mean())


def measure(model: nn.Module, known: Images, seen: Images) -> dict[str, float]:
    accuracy = probe(features(model, known), known.labels, features(model, seen), seen.labels)
    return {"probe_accuracy": accuracy}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    flags = parser(__doc__, steps=500, density=0.5)
    flags.add_argument("--data", default="mnist", choices=("mnist", "cifar10", "digits"))
    flags.add_argument("--data-root", help="where data sets lie (else $SUPERMASK_DATA)")
    flags.add_argument("--width", type=int, default=32, help="channels of the first convolution")
    flags.add_argument("--lr", type=float, default=2e-3, help="of the weights")
    flags.add_argument("--search-lr", type=float, default=1e-2, help="of the scores")
    flags.add_argument("--rounds", type=int, default=2, help="of IMP")
    flags.add_argument("--labelled", type=int, default=20_000, help="images that the classifier is fitted to")
    options = start(flags, arguments)
    data = load_data(options.data, options.data_root)
    training, seen = data.split(0.1, seed=0) if options.validation else (data.train, data.test)
    known = spread(training, options.labelled)
    zeros, ones = [0.0] * data.in_channels, [1.0] * data.in_channels
    loader = Loader(training, batch_size=BATCH, seed=options.seed, mean=zeros, std=ones)
    task = Example(
        network=partial(Network, data, options.width),
        trainer=lambda model: torch.optim.Adam(model.parameters(), lr=options.lr),
        draw=lambda model: sm.randomize_(model, seed=options.seed, density=options.density),
        search=lambda model: sm.EdgePopup(
            model, density=options.density, lr=options.search_lr, base="adam", seed=options.seed
        ),
        loop=partial(loop, batches=loader.batch, steps=options.steps),
        measure=partial(measure, known=known, seen=seen),
    )
    rows = trio(
        task,
        density=options.density,
        rounds=options.rounds,
        rewind_to=options.steps // 20,
        seed=options.seed,
        out=options.out,
    )
    torch.manual_seed(options.seed)
    rows.append(row("untrained", 1.0, task.measure(task.network()), None))
    about = {
        "task": f"features of {data.name}", "steps": options.steps, "batch": BATCH,
        "labelled": len(known), "images": len(seen), "width": options.width, "temperature": TEMPERATURE,
        "lr": options.lr, "search_lr": options.search_lr, "rounds": options.rounds,
    }  # fmt: skip
    return write_result(
        "contrastive", options, about=about, measures={"probe_accuracy": "linear probe, %"}, rows=rows
    )


if __name__ == "__main__":
    main()
