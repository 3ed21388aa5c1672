"""Networks that lost filters, made smaller for good: size, work, time and accuracy beside the masked ones.

    python benchmarks/reproduce.py cifar10-resnet-20 --data-root DIR
    python benchmarks/shrunk.py --run cifar10-resnet-20 --data-root DIR --threads 1

Reads the tickets of `filters-l1` that the run left, builds the network of each and `prune.shrink`s it. Work
is multiply-accumulates of one image; time is of one batch of 64 images in float32, measured in turns. The
numbers go to `benchmarks/results/shrunk/NAME.json`.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from _measure import arguments, interleave, machine, ratio
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import supermask as sm
from supermask.data import Dataset, iterate_eval, load_data
from supermask.io import read_json, write_json
from supermask.prune import shrink
from supermask.tickets.ticket import dense_bytes

ROOT = Path(__file__).parent.parent
BATCH = 64


def work(model: nn.Module, image: Tensor) -> int:
    """Multiply-accumulates of one image."""
    with FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops()) // 2


def predictions(model: nn.Module, data: Dataset) -> Tensor:
    """The class of every test image."""
    batches = iterate_eval(data.test, 500, data.mean, data.std)
    return torch.cat([model(inputs).argmax(dim=1) for inputs, _ in batches])


def facts(model: nn.Module, data: Dataset, found: Tensor) -> dict[str, Any]:
    """Size, work and accuracy of a network that predicts `found`."""
    image = torch.zeros(1, data.in_channels, data.image_size, data.image_size)
    return {
        "weights": sum(p.numel() for p in model.parameters() if p.dim() > 1),
        "bytes": dense_bytes(model),
        "macs": work(model, image),
        "accuracy": float((found == data.test.labels).double().mean()),
    }


def measure(path: Path, data: Dataset, seconds: float) -> dict[str, Any]:
    """One row: the network of a ticket under its mask, and without the filters that are gone."""
    masked = sm.load(path).eval().requires_grad_(False)
    images = torch.randn(BATCH, data.in_channels, data.image_size, data.image_size)
    small = shrink(masked, sm.Ticket.load(path).mask(), images)
    networks = {
        "masked": masked.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        "small": small.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
    }
    images = images.contiguous(memory_format=torch.channels_last)
    times = interleave({name: lambda n=n: n(images) for name, n in networks.items()}, seconds)
    found = {name: predictions(network, data) for name, network in networks.items()}
    return {
        **{name: {**facts(network, data, found[name]), **times[name]} for name, network in networks.items()},
        "faster": ratio(times, "masked", "small"),
        "other_predictions": int((found["masked"] != found["small"]).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", default="cifar10-resnet-20", help="name of the recipe, run by reproduce.py")
    parser.add_argument("--data-root", help="where data sets lie (else $SUPERMASK_DATA)")
    options = arguments("networks that lost filters, made smaller", parser)
    out = ROOT / "runs" / options.run
    document = read_json(out / "results.json")
    data = load_data(document["config"]["data"], options.data_root)
    rows = [
        {
            "density": row["density"],
            "kept_density": row["kept_density"],
            "seed": row["seed"],
            **measure(out / row["ticket"], data, options.seconds),
        }
        for row in document["rows"]
        if row["method"] == "filters-l1"
    ]
    about = machine(options.threads)
    target = ROOT / "benchmarks" / "results" / "shrunk" / f"{options.run}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        target,
        {
            "schema": "supermask/shrunk/1",
            "machine": about,
            "command": f"python benchmarks/shrunk.py --run {options.run} --threads {options.threads}",
            "model": document["config"]["model"],
            "batch": BATCH,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
