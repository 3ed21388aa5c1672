"""Commands about one ticket: `eval` and `info`."""

import argparse
import json
import math
import os
import sys
from typing import Any

from supermask.checks import MOST_PIXELS
from supermask.cli.flags import FlagError
from supermask.cli.recorded import recorded_data, recorded_selection, same_data
from supermask.cli.streams import console_of


def run_eval(options: argparse.Namespace) -> None:
    """Print the accuracy of a ticket on a data set."""
    _check_numbers(options)
    from supermask.cli.placement import check_device
    from supermask.data import iterate_eval, load_data
    from supermask.packed import pack
    from supermask.tickets.network import network_of
    from supermask.tickets.ticket import Ticket
    from supermask.training.loop import evaluate

    device = check_device(options.device)
    ticket = Ticket.load(options.ticket)
    name = options.data or recorded_data(ticket.provenance.get("data"))
    recorded = ticket.provenance.get("image_size")
    size = options.image_size or (recorded if type(recorded) is int and 0 < recorded <= MOST_PIXELS else None)
    own = same_data(name, ticket.provenance.get("data"))
    selection = _selection(options, ticket.provenance.get("selection") if own else None)
    data = load_data(name, options.data_root, size, selection=selection, cache=options.cache)
    _check_fit(ticket.factory, data)
    batches = iterate_eval(
        data.test, options.batch_size, data.mean, data.std, device, image_size=data.image_size
    )
    network = network_of(ticket, device)
    if options.packed:
        network = pack(network, ticket, activations=None if options.packed == "exact" else options.packed)
    result = evaluate(network, batches)
    if options.json:
        print(json.dumps({"data": name, "images": len(data.test), "packed": options.packed, **result}))
    else:
        print(f"{100 * result['accuracy']:.2f} % of {len(data.test)} test images of {name}", end="")
        print(f", mean loss {result['loss']:.4f}")


def _check_numbers(options: argparse.Namespace) -> None:
    most = {"image_size": MOST_PIXELS, "stored_size": MOST_PIXELS, "batch_size": math.inf}
    for name, largest in most.items():
        value = getattr(options, name)
        if value is not None and not 1 <= value <= largest:
            remedy = "take a positive number" if math.isinf(largest) else f"take a number from 1 to {largest}"
            raise FlagError(f"--{name.replace('_', '-')} {value}: {remedy}")
    if options.stored_size is not None and (options.image_size or 0) > options.stored_size:
        remedy = f"take at least --image-size {options.image_size}"
        raise FlagError(f"--stored-size {options.stored_size}: {remedy}")


def _selection(options: argparse.Namespace, recorded: Any) -> Any:
    """What is taken of a folder of images: what the ticket records, and what flags say instead.

    Of another data set than the ticket's, flags alone count.
    """
    from supermask.data import Selection
    from supermask.data.selection import read_classes

    chosen = recorded_selection(options.ticket, recorded)
    if options.stored_size:
        chosen["stored_size"] = options.stored_size
    if options.classes:
        chosen["classes"] = read_classes(options.classes)
    if options.allow_corrupt:
        chosen["allow_corrupt"] = True
    if "classes" in chosen:
        chosen["classes"] = tuple(chosen["classes"])
    try:
        return Selection(**chosen)
    except ValueError as error:
        raise FlagError(f"{options.ticket} records a selection of images that cannot be: {error}") from None


def _check_fit(factory: dict[str, Any] | None, data: Any) -> None:
    """Refuse a data set whose images or classes the network was not built for."""
    arguments = (factory or {}).get("args")
    for key in ("num_classes", "in_channels", "image_size"):
        built = arguments.get(key) if isinstance(arguments, dict) else None
        if built is not None and built != getattr(data, key):
            raise FlagError(
                f"--data {data.name}: its {key} is {getattr(data, key)}, and the ticket's network was built "
                f"for {built}; name the data set it was made on, or set --image-size"
            )


def _multiply_adds(ticket: Any) -> int | None:
    """Of the kept weights, for one example; None where the network cannot be built from the ticket."""
    from supermask.analysis.units import multiply_adds
    from supermask.tickets.load import network_of
    from supermask.tickets.ticket import TicketError

    arguments = (ticket.factory or {}).get("args")
    if not isinstance(arguments, dict):
        return None
    channels, pixels = arguments.get("in_channels"), arguments.get("image_size")
    if (
        type(channels) is not int
        or type(pixels) is not int
        or not (0 < channels <= 64 and 0 < pixels <= 1024)
    ):
        return None
    try:
        return multiply_adds(network_of(ticket), ticket.mask(), (channels, pixels, pixels))
    except (TicketError, RuntimeError, ValueError, MemoryError):
        return None


def run_info(options: argparse.Namespace) -> None:
    """Print what a ticket is."""
    from rich.markup import escape
    from rich.table import Table

    from supermask.tickets.hub import local_file
    from supermask.tickets.ticket import Ticket

    ticket = Ticket.load(options.ticket)
    size = os.path.getsize(local_file(options.ticket))
    facts = ticket.info() | {"multiply_adds": _multiply_adds(ticket), "bytes": size}
    if options.json:
        print(json.dumps(facts))
        return
    layers = facts.pop("layers")
    console = console_of(sys.stdout)
    for key, value in facts.items():
        shown = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
        console.print(f"{key.replace('_', ' ')}: {shown}", highlight=False, soft_wrap=True, markup=False)
    table = Table("layer", "shape", "kept", "density", box=None, header_style="bold")
    for layer in layers:
        shape = "×".join(map(str, layer["shape"]))
        table.add_row(escape(layer["name"]), shape, str(layer["kept"]), f"{layer['density']:.4g}")
    console.print(table)
