"""Images per second of our loader against torchvision's `ImageFolder` and `DataLoader` with two workers.

    python benchmarks/loader.py --threads 2 --data-root DATA --out benchmarks/results/MACHINE

Every pipeline makes normalized float batches of 128 images with the same random augmentation, from the
same images. The rivals: `files` decodes each image when it is wanted, as `ImageFolder` does; `decoded` finds
it decoded in memory, which leaves the transforms. Ours: `resident` in memory, `mapped` straight from the file
of decoded images, `read ahead` from it by two threads. A timing is one pass over the images, with workers
that are kept from pass to pass.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _measure import arguments, interleave, report
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from supermask.data import Images, Loader, Selection, load_data

BATCH = 128
WORKERS = 2
# Data set, augmentation, pixels a side stored and used, images in a pass.
SETTINGS = (
    ("imagenette", "resized-crop", 128, 128, 2048),
    ("imagenette", "resized-crop", 128, 112, 2048),
    ("imagenette", "resized-crop", 128, 64, 2048),
    ("imagenette", "resized-crop-colour", 128, 128, 2048),
    ("cifar10", "crop-flip", 32, 32, 6144),
)


class Decoded(Dataset[tuple[Any, int]]):
    """Images in memory, as torchvision's own CIFAR has them, with a transform."""

    def __init__(self, images: Images, transform: Callable[[Any], torch.Tensor]) -> None:
        self._pixels = images.pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self._labels, self._transform = images.labels.tolist(), transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(Image.fromarray(self._pixels[index])), self._labels[index]


def transform_of(augment: str, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    """The augmentation in torchvision's words."""
    if augment == "crop-flip":
        chain: list[Any] = [transforms.RandomCrop(size, padding=size // 8)]
    else:
        chain = [transforms.RandomResizedCrop(size)]
    chain.append(transforms.RandomHorizontalFlip())
    if augment == "resized-crop-colour":
        chain.append(transforms.ColorJitter(0.4, 0.4, 0.4))
    return transforms.Compose([*chain, transforms.ToTensor(), transforms.Normalize(mean, std)])


def passes(
    name: str, augment: str, stored: int, size: int, count: int, root: str, cache: str
) -> dict[str, Any]:
    """Name → one pass over the images."""
    selection = Selection(stored_size=None if stored == size else stored)
    data = load_data(name, root, size, selection=selection, cache=cache)
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:count]
    images = data.train.take(chosen)
    transform = transform_of(augment, size, data.mean, data.std)
    folder = next(path for path in sorted(Path(root).glob(f"{name}*")) if (path / "train").is_dir())
    rivals = {
        "files": Subset(ImageFolder(str(folder / "train"), transform), chosen.tolist()),
        "decoded": Decoded(images, transform),
    }

    def rival(dataset: Any) -> Callable[[], None]:
        loader = DataLoader(
            dataset, BATCH, shuffle=True, num_workers=WORKERS, drop_last=True, persistent_workers=True
        )

        def once() -> None:
            for _ in loader:
                pass

        return once

    def ours(images: Images, **options: Any) -> Callable[[], None]:
        layout = augment != "crop-flip"
        loader = Loader(
            images,
            batch_size=BATCH,
            seed=0,
            mean=data.mean,
            std=data.std,
            augment=augment,
            image_size=size,
            channels_last=layout,
            **options,
        )
        position = 0

        def once() -> None:
            nonlocal position
            for step in range(position, position + loader.steps_per_epoch):
                loader.batch(step)
            position += loader.steps_per_epoch

        return once

    return {
        **{name: rival(dataset) for name, dataset in rivals.items()},
        "resident": ours(Images(images.pixels, images.labels)),
        "mapped": ours(images, stream=False),
        "read ahead": ours(images, stream=True, workers=2),
    }


def compare(setting: tuple[str, str, int, int, int], seconds: float, root: str, cache: str) -> dict[str, Any]:
    """One row."""
    name, augment, stored, size, count = setting
    results = interleave(passes(*setting, root, cache), seconds)
    rates = {which: 1e3 * count / timing["median_ms"] for which, timing in results.items()}
    return {
        "data": name,
        "augment": augment,
        "stored_size": stored,
        "image_size": size,
        "batch_size": BATCH,
        "workers": WORKERS,
        "images": count,
        "images_per_second": rates,
        "speedup": {
            f"{ours}/{rival}": rates[ours] / rates[rival]
            for ours in ("resident", "mapped", "read ahead")
            for rival in ("files", "decoded")
        },
        **results,
    }


def main() -> None:
    """Time every setting."""
    parser = argparse.ArgumentParser()
    root = os.environ.get("SUPERMASK_DATA", "data")
    parser.add_argument("--data-root", default=root, help="where data sets lie (else $SUPERMASK_DATA)")
    options = arguments("our loader against torchvision's", parser)
    if options.device != "cpu":
        raise SystemExit(f"this measures loading on a CPU, not on {options.device}; leave --device out")
    with tempfile.TemporaryDirectory() as cache:
        rows = [compare(setting, options.seconds, options.data_root, cache) for setting in SETTINGS]
    report("loader", options, rows)


if __name__ == "__main__":
    main()
