"""Images per second of whole trainings, loading included: dense, edge-popup and IMP, against two usual ways.

`dense`, `edge-popup` and `imp` (SGD under `hold`, at the density of the search) are `sm.fit` over our loader.
`sort` is the usual form of edge-popup, which sorts its scores in every forward pass, by the same loop and
loader. `dataloader` is dense training as people write it: images in memory, torchvision's transforms, a
`DataLoader` with worker processes, a plain loop. Every candidate takes some steps in its turn; the first,
in which workers start or a graph is recorded, do not count. Images are random bytes of the data set's shape,
cropped and flipped alike (those of one channel are not): throughput does not depend on what they show.

Those of `sm.fit` keep images and convolutions in channels_last, as our commands do. On a GPU all compute in
bfloat16, and those of `sm.fit` replay whole steps from CUDA graphs.

The time of the survey's figure 1 is extrapolated from measured steps of ResNet-20: CIFAR-10, 160 epochs, 20
rounds of IMP with the reinit control of each, three seeds; evaluations are not counted.

python benchmarks/throughput.py [--threads 2 | --device cuda] [--out DIR]
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from _measure import arguments, ratio, report, take_turns
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from training_step import DENSITY, sort_in_forward

import supermask as sm
from supermask.data import Images, Loader
from supermask.models import create_model
from supermask.prune import magnitude
from supermask.training.precision import AMP_DTYPES, autocast
from supermask.weights.roles import masked

# Network, channels, pixels a side, images a step on a CPU and on a GPU, steps of a turn on a CPU.
NETWORKS = (
    ("lenet-300-100", 1, 28, 128, 512, 50),
    ("conv-4", 3, 32, 64, 512, 4),
    ("resnet-20", 3, 32, 64, 512, 4),
    ("resnet-18-cifar", 3, 32, 32, 512, 2),
    ("torchvision/resnet50", 3, 128, 16, 256, 1),
    ("torchvision/resnet50", 3, 224, 8, 128, 1),
)
GPU_STEPS = 60
"""Steps of a turn on a GPU."""
WARM_UP = {"cpu": 1, "cuda": 6}
"""Steps at the start of a turn that do not count: on a GPU, those before the recording, and the recording."""
IMAGES = 4096
OPTIONS = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 1e-4}
"""So small a rate that random labels cannot make anything diverge."""
FIGURE = {
    "network": "resnet-20",
    "images": 50_000,
    "batch_size": 128,
    "epochs": 160,
    "rounds": 20,
    "seeds": 3,
}

Turn = Callable[[], float]
"""Takes some training steps and returns the milliseconds of one."""


def network(name: str, images: Images, device: str) -> nn.Module:
    """A network for ten classes, drawn, on the device."""
    channels, size = images.pixels.shape[1], images.pixels.shape[2]
    model = create_model(name, num_classes=10, in_channels=channels, image_size=size).to(device)
    return sm.randomize_(model, init="signed_constant", seed=0)


def fitted(kind: str, name: str, images: Images, batch: int, steps: int, options: argparse.Namespace) -> Turn:
    """Turns of `sm.fit`: `dense`, `edge-popup`, `imp` or `sort`."""
    device, warm = options.device, WARM_UP[options.device]
    channels = images.pixels.shape[1]
    model, convolutional = network(name, images, device), channels == 3
    if convolutional:
        model = model.to(memory_format=torch.channels_last)
    if kind == "edge-popup":
        optimizer: torch.optim.Optimizer = sm.EdgePopup(model, density=DENSITY, **OPTIONS)
    else:
        sort_in_forward(model) if kind == "sort" else model.requires_grad_(True)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], **OPTIONS)
    if kind == "imp":
        weights = {info.name: info.tensor.detach() for info in masked(model)}
        keep = {key: round(DENSITY * weight.numel()) for key, weight in weights.items()}
        sm.hold(optimizer, magnitude(weights, keep), model)
    loader = Loader(
        images,
        batch_size=batch,
        seed=0,
        mean=[0.5] * channels,
        std=[0.25] * channels,
        augment="crop-flip" if channels == 3 else "none",
        device=device,
        channels_last=convolutional,
    )
    done = 0

    def turn() -> float:
        nonlocal done
        clock = Clock(done + warm, device)
        sm.fit(
            model,
            optimizer,
            loader.batch,
            steps=done + warm + steps,
            start=done,
            amp=options.amp,
            cuda_graphs=device == "cuda",
            on_step=clock.look,
        )
        done += warm + steps
        return clock.milliseconds() / steps

    return turn


class InMemory(Dataset):
    """Images in memory, as torchvision's CIFAR-10 keeps them, through its transforms one by one."""

    def __init__(self, images: Images) -> None:
        self.pixels = images.pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.labels.tolist()
        channels, size = images.pixels.shape[1], images.pixels.shape[2]
        augmented = [transforms.RandomCrop(size, padding=size // 8), transforms.RandomHorizontalFlip()]
        self.transform = transforms.Compose(
            [
                *(augmented if channels == 3 else ()),
                transforms.ToTensor(),
                transforms.Normalize([0.5] * channels, [0.25] * channels),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self.pixels[index]
        image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
        return self.transform(image), self.labels[index]


def by_dataloader(name: str, images: Images, batch: int, steps: int, options: argparse.Namespace) -> Turn:
    """Turns of dense training as people write it."""
    device = options.device
    model = network(name, images, device).requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), **OPTIONS)
    loader = DataLoader(
        InMemory(images),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        pin_memory=device == "cuda",
    )
    # Workers are some batches ahead when they have started; those must not look like speed.
    warm = WARM_UP[device] + (2 * options.workers if steps > 2 * options.workers else 0)

    def epochs() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from loader

    def turn() -> float:
        clock = Clock(warm, device)
        for step, (inputs, labels) in enumerate(epochs(), start=1):
            inputs = inputs.to(device, non_blocking=True)
            labels = labels.to(device, non_blocking=True)
            optimizer.zero_grad()
            with autocast(torch.device(device), "bf16" if options.amp == "pure-bf16" else options.amp):
                loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            clock.look(step)
            if step == warm + steps:
                return clock.milliseconds() / steps
        raise AssertionError("epochs never end")

    return turn


class Clock:
    """Time from the end of one step to now, when the device has done all it was asked for."""

    def __init__(self, from_step: int, device: str) -> None:
        self._from, self._device, self._began = from_step, device, 0.0

    def look(self, step: int) -> None:
        if step == self._from:
            self._began = self._now()

    def milliseconds(self) -> float:
        return 1e3 * (self._now() - self._began)

    def _now(self) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def random_images(channels: int, size: int) -> Images:
    """Random bytes and labels."""
    generator = torch.Generator().manual_seed(0)
    count = IMAGES if size <= 32 else IMAGES // 4
    pixels = torch.randint(256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.randint(10, (count,), generator=generator))


def compare(row: tuple[str, int, int, int, int, int], options: argparse.Namespace) -> dict[str, Any]:
    """One row: milliseconds a step and images per second of every candidate, and the ratios."""
    name, channels, size, on_cpu, on_gpu, steps = row
    batch = options.batch or (on_gpu if options.device == "cuda" else on_cpu)
    steps = GPU_STEPS if options.device == "cuda" else steps
    images = random_images(channels, size)
    turns = {
        kind: fitted(kind, name, images, batch, steps, options)
        for kind in ("dense", "edge-popup", "imp", "sort")
    }
    turns["dataloader"] = by_dataloader(name, images, batch, steps, options)
    results = take_turns(turns, options.seconds)
    for result in results.values():
        result["images_per_second"] = 1e3 * batch / result["median_ms"]
    over_dense = {f"{kind}/dense": ratio(results, kind, "dense") for kind in ("edge-popup", "imp")}
    usual = {"sort/edge-popup": ratio(results, "sort", "edge-popup")}
    plain = {"dataloader/dense": ratio(results, "dataloader", "dense")}
    shape = {"network": name, "image_size": size, "batch_size": batch, "steps_per_turn": steps}
    return {**shape, "density": DENSITY, **over_dense, **usual, **plain, **results}


def figure(options: argparse.Namespace) -> dict[str, Any]:
    """The survey's figure: all its training steps, at the speed of the few that are measured here."""
    name, batch, images = FIGURE["network"], FIGURE["batch_size"], random_images(3, 32)
    steps = GPU_STEPS if options.device == "cuda" else 2
    turns = {kind: fitted(kind, name, images, batch, steps, options) for kind in ("dense", "imp")}
    turns["dataloader"] = by_dataloader(name, images, batch, steps, options)
    results = take_turns(turns, options.seconds)
    per_training = FIGURE["epochs"] * (FIGURE["images"] // batch)
    dense, tickets = FIGURE["seeds"], 2 * FIGURE["rounds"] * FIGURE["seeds"]
    ours = dense * results["dense"]["median_ms"] + tickets * results["imp"]["median_ms"]
    usual = (dense + tickets) * results["dataloader"]["median_ms"]
    return {
        "what": "extrapolated from measured steps, without evaluations",
        **FIGURE,
        "steps": (dense + tickets) * per_training,
        "hours": ours * per_training / 3.6e6,
        "hours_by_dataloader": usual * per_training / 3.6e6,
        **results,
    }


def label(row: Mapping[str, Any]) -> str:
    """A row's heading in the figure."""
    name = row["network"].removeprefix("torchvision/")
    return f"{name}, {row['image_size']} pixels, batch {row['batch_size']}"


def main() -> None:
    """Measure the networks of the table in docs/performance.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, help="images a step, in place of each network's own")
    parser.add_argument("--workers", type=int, help="processes of the DataLoader; one for each thread")
    parser.add_argument("--amp", choices=tuple(AMP_DTYPES), help="by default bf16 on a GPU, none on a CPU")
    parser.add_argument(
        "--networks", nargs="+", help="only these", choices=sorted({row[0] for row in NETWORKS})
    )
    options = arguments("images per second of dense, edge-popup and IMP", parser)
    options.workers = options.workers or options.threads
    options.amp = options.amp or ("bf16" if options.device == "cuda" else "none")
    rows = [compare(row, options) for row in NETWORKS if not options.networks or row[0] in options.networks]
    more = {"amp": options.amp, "workers": options.workers, "survey_figure_1": figure(options)}
    report("throughput", options, rows, label, **more)


if __name__ == "__main__":
    main()
