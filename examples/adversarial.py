"""Adversarial training: an untrained subnetwork that withstands attacks.

    python examples/adversarial.py --data mnist --out runs/adversarial

Every batch is first moved where the network errs most, by projected gradient ascent in a ball of radius
`--eps` around each image (Madry et al. 2018, arXiv 1706.06083), and the network, or its mask, learns from
what comes out. That a subnetwork of random weights can be robust is due to Fu et al. 2021 (arXiv 2110.14068).
The attack that measures is stronger than the one that trains: 20 steps instead of 5. `unprotected` is the
same dense network trained on clean images; it shows that the attack bites.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from _trio import Example, OnStep, parser, row, start, trio, write_result
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import supermask as sm
from supermask.data import Dataset, Images, Loader, iterate_eval, load_data
from supermask.training.loop import Schedule

BATCH = 128
Attack = Callable[[nn.Module, Tensor, Tensor, float], Tensor]
"""Model, images in [0, 1], labels, radius → images as near that the model errs more on."""


def attack(
    model: nn.Module, images: Tensor, labels: Tensor, eps: float, *, steps: int, rate: float
) -> Tensor:
    """Projected gradient ascent on the cross-entropy from a random start, in steps of `rate` · eps."""
    noise = torch.empty_like(images).uniform_(-eps, eps)
    attacked = (images + noise).clamp(0, 1)
    low, high = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
    for _ in range(steps):
        attacked.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(attacked), labels), attacked)
        attacked = (attacked.detach() + rate * eps * gradient.sign()).clamp(low, high)
    return attacked.detach()


training_attack = partial(attack, steps=5, rate=0.4)
test_attack = partial(attack, steps=20, rate=0.1)


def clean(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """No attack."""
    return images


class Normalize(nn.Module):
    """Images in [0, 1] → mean 0 and standard deviation 1 in each channel."""

    def __init__(self, data: Dataset) -> None:
        super().__init__()
        self.mean, self.std = (torch.tensor(x).view(-1, 1, 1) for x in (data.mean, data.std))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def spread(images: Images, count: int) -> Images:
    """At most `count` of the images, evenly spread: a folder has them in the order of their classes."""
    return images.take(torch.linspace(0, len(images) - 1, min(count, len(images))).long())


def network(data: Dataset, width: int) -> nn.Module:
    """Two convolutions of stride 2 and two linear layers."""
    return nn.Sequential(
        Normalize(data),
        nn.Conv2d(data.in_channels, width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * (data.image_size // 4) ** 2, 8 * width),
        nn.ReLU(),
        nn.Linear(8 * width, data.num_classes),
    )


def loop(
    model: nn.Module,
    optimizer: Optimizer,
    first: int,
    on_step: OnStep,
    *,
    batches: Callable[[int], tuple[Tensor, Tensor]],
    steps: int,
    eps: float,
    attack: Attack = training_attack,
) -> None:
    """Attack, then learn; the radius grows over the first third, the learning rate falls to zero."""
    torch.manual_seed(first)
    rate = Schedule("cosine", steps, warmup=steps // 20)
    schedule = LambdaLR(optimizer, lambda done: rate(first + done))
    for step in range(first, steps):
        images, labels = batches(step)
        attacked = attack(model, images, labels, eps * min(1.0, 3 * (step + 1) / steps))
        optimizer.zero_grad()
        F.cross_entropy(model(attacked), labels).backward()
        optimizer.step()
        schedule.step()
        on_step(step + 1)


def measure(model: nn.Module, images: Images, eps: float) -> dict[str, float]:
    """Accuracy on the images as they are, and on the images under attack."""
    torch.manual_seed(0)
    correct = dict.fromkeys(("clean", "robust"), 0)
    unit = [0.0] * images.pixels.shape[1], [1.0] * images.pixels.shape[1]
    for inputs, labels in iterate_eval(images, 200, *unit):
        for name, seen in (("clean", inputs), ("robust", test_attack(model, inputs, labels, eps))):
            with torch.no_grad():
                correct[name] += int((model(seen).argmax(1) == labels).sum())
    return {f"{name}_accuracy": count / len(images) for name, count in correct.items()}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    flags = parser(__doc__, steps=600, density=0.3)
    flags.add_argument("--data", default="mnist", choices=("mnist", "cifar10", "digits"))
    flags.add_argument("--data-root", help="where data sets lie (else $SUPERMASK_DATA)")
    flags.add_argument("--eps", type=float, default=0.2, help="radius of the ball, of pixels in [0, 1]")
    flags.add_argument("--width", type=int, default=24)
    flags.add_argument("--lr", type=float, default=5e-3, help="of the weights")
    flags.add_argument("--search-lr", type=float, default=3e-3, help="of the scores")
    flags.add_argument("--gain", type=float, default=0.7, help="of the frozen weights; lower is less sure")
    flags.add_argument("--rounds", type=int, default=2, help="of IMP")
    flags.add_argument("--images", type=int, default=10_000, help="most images to measure on")
    options = start(flags, arguments)
    data = load_data(options.data, options.data_root)
    training, measured = data.split(0.1, seed=0) if options.validation else (data.train, data.test)
    measured = spread(measured, options.images)
    unit = [0.0] * data.in_channels, [1.0] * data.in_channels
    loader = Loader(training, batch_size=BATCH, seed=options.seed, mean=unit[0], std=unit[1])
    task = Example(
        network=partial(network, data, options.width),
        trainer=lambda model: torch.optim.Adam(model.parameters(), lr=options.lr),
        draw=lambda model: sm.randomize_(
            model, seed=options.seed, density=options.density, gain=options.gain
        ),
        search=lambda model: sm.EdgePopup(
            model, density=options.density, lr=options.search_lr, base="adam", seed=options.seed
        ),
        loop=partial(loop, batches=loader.batch, steps=options.steps, eps=options.eps),
        measure=partial(measure, images=measured, eps=options.eps),
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
    model, began = task.network(), time.monotonic()
    task.loop(model, task.trainer(model), 0, lambda _: None, attack=clean)
    rows.append(row("unprotected", 1.0, task.measure(model), time.monotonic() - began))
    about = {
        "task": f"{data.name} under attack", "eps": options.eps, "steps": options.steps, "batch": BATCH,
        "images": len(measured), "width": options.width, "lr": options.lr, "search_lr": options.search_lr,
        "gain": options.gain, "rounds": options.rounds,
    }  # fmt: skip
    measures = {"clean_accuracy": "clean accuracy, %", "robust_accuracy": "under attack, %"}
    return write_result("adversarial", options, about=about, measures=measures, rows=rows)


if __name__ == "__main__":
    main()
