"""Commands that hand a ticket on: `export` to other formats, and `diff` of two."""

import argparse
from pathlib import Path

from supermask.cli.flags import FlagError

FORMATS = (".onnx", ".pt2")


def add_export(parser: argparse.ArgumentParser) -> None:
    """Flags of `supermask export`."""
    parser.add_argument("ticket", help="ticket file, or hf://user/name")
    parser.add_argument("file", help="FILE.onnx, or FILE.pt2 for a program of torch.export")
    help = "2bit: two bits per weight in linear layers of signed constants, ONNX only (default: float32)"
    parser.add_argument("--weights", choices=("float32", "2bit"), default="float32", help=help)


def run_export(options: argparse.Namespace, _: list[str]) -> None:
    """Write the network of a ticket in the format that the name of the file asks for."""
    from supermask.export import example_of, write_onnx, write_program
    from supermask.tickets.load import network_of
    from supermask.tickets.ticket import Ticket

    suffix = Path(options.file).suffix
    if suffix not in FORMATS:
        raise FlagError(f"{options.file}: name a file that ends in {' or '.join(FORMATS)}")
    if suffix == ".pt2" and options.weights != "float32":
        raise FlagError(f"--weights {options.weights} is for .onnx; leave it out, or name a .onnx file")
    ticket = Ticket.load(options.ticket)
    example = example_of(ticket.factory)
    network = network_of(ticket)
    if suffix == ".onnx":
        write_onnx(network, options.file, example, weights=options.weights)
    else:
        write_program(network, options.file, example)
    print(
        f"{options.file}: {Path(options.file).stat().st_size} bytes, input {tuple(example.shape[1:])} per row"
    )
