"""Commands that hand a ticket on: `export` to other formats, and `diff` of two."""

import argparse
import json
import sys
from pathlib import Path

from supermask.cli.flags import FlagError
from supermask.cli.streams import console_of

FORMATS = (".onnx", ".pt2")


def run_export(options: argparse.Namespace) -> None:
    """Write the network of a ticket in the format that the name of the file asks for."""
    from supermask.export import ExportError, example_of
    from supermask.tickets.ticket import Ticket

    suffix = Path(options.file).suffix
    if suffix not in FORMATS:
        raise FlagError(f"{options.file}: name a file that ends in {' or '.join(FORMATS)}")
    if suffix == ".pt2" and options.weights != "float32":
        raise FlagError(f"--weights {options.weights} is for .onnx; leave it out, or name a .onnx file")
    if Path(options.file).is_dir() or not Path(options.file).parent.is_dir():
        raise FlagError(f"{options.file}: name a file in a folder that is there")
    ticket = Ticket.load(options.ticket)
    try:
        example = example_of(ticket.factory)
    except ExportError as error:
        how = f"ticket.to_{suffix[1:]}(path, model=..., example=...)"
        raise FlagError(f"{options.ticket}: {error}, in Python as {how}") from None
    if suffix == ".onnx":
        ticket.to_onnx(options.file, weights=options.weights, example=example)
    else:
        ticket.to_pt2(options.file, example=example)
    print(
        f"{options.file}: {Path(options.file).stat().st_size} bytes, input {tuple(example.shape[1:])} per row"
    )


def run_diff(options: argparse.Namespace) -> None:
    """Print what two tickets share and where they differ."""
    from rich.markup import escape
    from rich.table import Table

    from supermask.tickets.difference import difference
    from supermask.tickets.ticket import Ticket

    found = difference(Ticket.load(options.ours), Ticket.load(options.theirs))
    if options.json:
        print(json.dumps(found))
        return
    console = console_of(sys.stdout)
    console.print("the same network, bit for bit" if found["equal"] else "two networks", highlight=False)
    facts = Table("recorded", "A", "B", box=None, header_style="bold")
    for name, values in found["facts"].items():
        facts.add_row(*(escape(str(value)) for value in (name, *values)))
    layers = Table(
        "layer", "kept in A", "in B", "in both", "overlap", "by chance", box=None, header_style="bold"
    )
    for layer in found["layers"]:
        numbers = [*map(str, (*layer["kept"], layer["both"]))]
        layers.add_row(
            escape(layer["name"]), *numbers, f"{layer['overlap']:.3f}", f"{layer['by_chance']:.3f}"
        )
    for table in (facts, layers):
        if table.row_count:
            console.print(table)
    for key, where in (("only_here", "A"), ("only_there", "B")):
        if found[key]:
            console.print(f"only in {where}: {', '.join(found[key])}", highlight=False, markup=False)
