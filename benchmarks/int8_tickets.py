"""What rounding the inputs of packed linear layers to int8 does to the accuracy of strong tickets.

Each network is searched briefly, its ticket evaluated on the test split from dense weights, packed exactly,
and packed with rounded inputs (`supermask eval TICKET --packed int8`). Convolutions take their inputs as they
come in any case.

python benchmarks/int8_tickets.py [--threads 1] [--out DIR] --data-root DATA
"""

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from _measure import arguments, report

import supermask as sm
from supermask.cli import main as supermask_main
from supermask.packed import PackedLinear
from supermask.tickets.load import network_of
from supermask.tickets.ticket import Ticket

SEARCHES: dict[str, list[str]] = {
    "lenet-300-100": ["--data", "mnist", "--epochs", "2", "--density", "0.3"],
    "conv-4": ["--data", "cifar10", "--epochs", "1", "--density", "0.5", "--model-args", "width=0.5"],
    "resnet-18-cifar": [
        "--data",
        "cifar10",
        "--epochs",
        "0.5",
        "--density",
        "0.5",
        "--model-args",
        "width=0.25",
    ],
}
"""Network → the search for its ticket."""
WAYS: dict[str, list[str]] = {
    "dense": [],
    "packed": ["--packed", "exact"],
    "packed int8": ["--packed", "int8"],
}


def spoken(*line: str) -> str:
    """What a command prints, which must succeed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = supermask_main(list(line))
    if code:
        raise SystemExit(f"supermask {' '.join(line)} ended with code {code}")
    return out.getvalue()


def rounding_layers(path: Path) -> tuple[int, int]:
    """Packed linear layers that round their inputs, and the network's layers in all that the ticket masks."""
    ticket = Ticket.load(path)
    packed = sm.pack(network_of(ticket, "cpu"), ticket, activations="int8")
    rounding = [m for m in packed.modules() if isinstance(m, PackedLinear) and m.activations == "int8"]
    return len(rounding), sum(entry.masked for entry in ticket.entries)


def compare(model: str, flags: list[str], data_root: list[str], threads: int) -> dict[str, Any]:
    """One row."""
    with tempfile.TemporaryDirectory() as folder:
        line = ["search", "--model", model, *flags, "--seed", "0", "--threads", str(threads), *data_root]
        spoken(*line, "--out", folder)
        (path,) = Path(folder).rglob("*.ticket")
        found = {
            way: json.loads(spoken("eval", str(path), *more, *data_root, "--json"))
            for way, more in WAYS.items()
        }
        rounding, layers = rounding_layers(path)
    kept = {way: {name: result[name] for name in ("accuracy", "loss")} for way, result in found.items()}
    return {
        "network": model,
        "search": " ".join(flags),
        "images": found["dense"]["images"],
        "layers": layers,
        "rounding": rounding,
        **kept,
    }


def main() -> None:
    """Every network; about twenty minutes of one core."""
    own = argparse.ArgumentParser()
    own.add_argument("--data-root", help="where data sets lie (else $SUPERMASK_DATA, else ./data)")
    options = arguments("tickets packed exactly and with int8 inputs", own)
    given = getattr(options, "data_root", None)
    data_root = [] if given is None else ["--data-root", given]
    rows = [compare(model, flags, data_root, options.threads) for model, flags in SEARCHES.items()]
    report("int8_tickets", options, rows)


if __name__ == "__main__":
    main()
