"""Mutated tickets: how many are refused, and whether any is loaded as something else.

python benchmarks/ticket_mutations.py [--count 1000000] [--out DIR]

Tickets of every kind are changed in two ways. *Damage* changes bytes of the file, or its content without its
digest: what is loaded must be the ticket itself. *Forgery* changes the content and computes a new digest, as
whoever means harm would: what is accepted must be saved and loaded again alike, and its network built or
refused. Nothing but `TicketError` may be raised. `tests/test_ticket_mutations.py` does the same with fewer.
"""

import argparse
import copy
import json
import struct
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

import supermask as sm
from supermask.io import read_tensors, write_json
from supermask.tickets.container import digest_of
from supermask.tickets.network import network_of
from supermask.weights.init import init_of

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
ODD = [None, True, False, 0, 1, -1, 7, 1 << 20, 1 << 39, 1 << 64, 10**400, 0.5, -0.0, 1e300]
ODD += [float("nan"), float("inf"), "", "F64", "constant", "\ud800", "../x", [], {}, [[]], [0]]
ODD += [[1 << 39] * 4, [1] * 40, {"a": {"b": []}}]


class Tables(nn.Module):
    """A network with a table, an index, a scalar and an empty parameter, and buffers of other types."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.index = nn.Parameter(torch.arange(5), requires_grad=False)
        self.gain = nn.Parameter(torch.tensor(2.5))
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.linear = nn.Linear(4, 3)
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("halves", torch.tensor([1.5, -2.0], dtype=torch.bfloat16))


class Words(nn.Module):
    """Two tables with a padding row each, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(12, 6, padding_idx=3)
        self.tag = nn.EmbeddingBag(5, 6, padding_idx=-1)
        self.linear = nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        """Numbers for each row of word ids, of any length."""
        return self.linear(self.word(ids).sum(dim=1) + self.tag(ids % 5))


def tickets() -> dict[str, sm.Ticket]:
    """A small ticket of every kind, by name."""
    shape = {"in_channels": 1, "image_size": 6}
    found = {}
    norms = sm.randomize_(
        sm.create_model("conv-2", in_channels=1, image_size=8, width=0.0625, batch_norm=True), seed=3
    )
    with torch.no_grad():
        norms(torch.rand(8, 1, 8, 8))
    found["strong"] = sm.EdgePopup(norms, density=0.1, lr=0.1).ticket({"note": "ü"})
    lenet = sm.randomize_(
        sm.create_model("lenet-300-100", **shape, width=0.1), "kaiming_normal", seed=2**64 - 1
    )
    search = sm.EdgePopup(lenet, density=0.5, lr=0.1)
    found["bits"] = search.ticket()
    with torch.no_grad():
        for name, kept in search.mask.items():
            lenet.get_parameter(name).mul_(1.25).add_(0.125).mul_(kept)
    found["trained"] = sm.Ticket.from_model(lenet, search.mask)
    found["dense"] = sm.Ticket.from_model(lenet, {})
    found["varied"] = sm.Ticket.load(GOLDEN / "version-2.ticket")
    tables = Tables()
    mask = {"linear.weight": torch.arange(12).view(3, 4) % 3 == 0}
    with torch.no_grad():
        tables.linear.weight.mul_(mask["linear.weight"])
    found["tables"] = sm.Ticket.from_model(tables, mask)
    assert init_of(lenet) is not None
    words = sm.randomize_(Words(), "kaiming_normal", seed=17, include=["tag.*"])
    found["padded"] = sm.EdgePopup(words, density=0.6, lr=0.1, include=["tag.*"]).ticket()
    return {kind: replace(ticket, version=3) for kind, ticket in found.items()}


def damage_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes of a file, changed in one way or a few."""
    broken = bytearray(data)
    for _ in range(1 if rng.random() < 0.7 else rng.integers(2, 6)):
        at = int(rng.integers(len(broken))) if broken else 0
        match int(rng.integers(7)):
            case 0 | 1 if broken:
                broken[at] ^= 1 << int(rng.integers(8))
            case 2 if broken:
                broken[at] = int(rng.integers(256))
            case 3:
                del broken[at:]
            case 4:
                del broken[at : at + int(rng.integers(1, 9))]
            case 5:
                broken[at:at] = rng.bytes(int(rng.integers(1, 9)))
            case _:
                size, other = int(rng.integers(1, 65)), int(rng.integers(len(broken) + 1))
                broken[at : at + size], broken[other : other + size] = (
                    broken[other : other + size],
                    broken[at : at + size],
                )
    return bytes(broken)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is something in nested lists and dictionaries."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [found for key, item in items for found in _paths(item, (*path, key))]


def change_header(header: dict[str, Any], rng: np.random.Generator) -> None:
    """Replace, remove, exchange or add something in a header."""
    paths = _paths(header)
    path = paths[int(rng.integers(len(paths)))]
    parent: Any = header
    for key in path[:-1]:
        parent = parent[key]
    match int(rng.integers(6)):
        case 0:
            del parent[path[-1]]
        case 1 | 2:
            parent[path[-1]] = copy.deepcopy(ODD[int(rng.integers(len(ODD)))])
        case 3 if isinstance(parent[path[-1]], int | float):
            parent[path[-1]] = parent[path[-1]] * [-1, 2, 3, 1000][int(rng.integers(4))] + int(
                rng.integers(3)
            )
        case 4 if isinstance(parent, dict):
            parent["version" if rng.random() < 0.5 else "scheme"] = int(rng.integers(5))
        case _:  # exchange two values of one name, such as the names of two entries
            entries = header.get("parameters")
            if isinstance(entries, list) and len(entries) > 1:
                a, b = (entries[int(i)] for i in rng.choice(len(entries), 2, replace=False))
                if isinstance(a, dict) and isinstance(b, dict) and a.keys() & b.keys():
                    key = sorted(a.keys() & b.keys())[int(rng.integers(len(a.keys() & b.keys())))]
                    a[key], b[key] = b[key], a[key]


def change_tensors(tensors: dict[str, torch.Tensor], rng: np.random.Generator) -> None:
    """Change a bit, the type, the size or the name of a tensor, or remove it."""
    names = sorted(tensors)
    name, other = (names[int(rng.integers(len(names)))] for _ in range(2))
    tensor = tensors[name]
    match int(rng.integers(7)):
        case 0 | 1 if tensor.numel():
            data = bytearray(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
            tensors[name] = torch.frombuffer(data, dtype=torch.uint8).view(tensor.dtype).view(tensor.shape)
        case 2:
            del tensors[name]
        case 3:
            tensors[name] = tensor.flatten()[: int(rng.integers(tensor.numel() + 1))].clone()
        case 4:
            kinds = [torch.float16, torch.float64, torch.uint8, torch.int64, torch.bool, torch.float8_e4m3fn]
            tensors[name] = tensor.to(kinds[int(rng.integers(len(kinds)))])
        case 5:
            tensors[name], tensors[other] = tensors[other], tensors[name]
        case _:
            kinds = ["mask", "coded", "value", "flip", "generation", "buffer", "other"]
            tensors[f"{kinds[int(rng.integers(7))]}/{name.partition('/')[2]}"] = tensors.pop(name)


class Mutator:
    """Mutations of one ticket, tried in a folder of its own."""

    def __init__(self, ticket: sm.Ticket, folder: Path) -> None:
        self.path = folder / "mutated.ticket"
        self.data = ticket.save(folder / "whole.ticket").read_bytes()
        self.tensors, text = read_tensors(folder / "whole.ticket")
        self.header = json.loads(text)
        self.digest = ticket.digest()

    def _write(self, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        ready = {name: tensor.contiguous() for name, tensor in tensors.items()}
        self.path.write_bytes(save(ready, {"supermask": json.dumps(header)}))

    def damage(self, rng: np.random.Generator) -> str:
        """Try one damaged file: `refused`, or `unchanged` where the ticket was loaded as it is.

        Raises:
            AssertionError: It was loaded as another ticket.
        """
        if rng.random() < 0.7:
            self.path.write_bytes(damage_bytes(self.data, rng))
        else:
            header, tensors = copy.deepcopy(self.header), dict(self.tensors)
            change_header(header, rng) if rng.random() < 0.5 else change_tensors(tensors, rng)
            try:
                self._write(header, tensors)
            except UnicodeEncodeError:
                return "not written"
        try:
            found = sm.Ticket.load(self.path)
        except sm.TicketError:
            return "refused"
        # An older version without a digest is another claim, which the ticket makes openly.
        assert found.version == 3 and found.digest() == self.digest, (
            "a damaged ticket was loaded as another one"
        )
        return "unchanged"

    def forge(self, rng: np.random.Generator) -> str:
        """Try one forged file: `refused`, or `accepted` where it holds another sound ticket.

        Raises:
            AssertionError: What was loaded is not what it is after it was saved.
        """
        header, tensors = copy.deepcopy(self.header), dict(self.tensors)
        for _ in range(int(rng.integers(1, 4))):
            change_header(header, rng) if rng.random() < 0.6 or not tensors else change_tensors(tensors, rng)
        header.pop("digest", None)
        try:
            text = json.dumps(header)[:-1]
            ready = {name: tensor.contiguous() for name, tensor in tensors.items()}
            known = {name: tensor for name, tensor in ready.items() if tensor.dtype != torch.float8_e4m3fn}
            signed = f'{text}, "digest": "{digest_of(text, known)}"}}'
            self.path.write_bytes(save(ready, {"supermask": signed}))
        except UnicodeEncodeError:
            return "not written"
        try:
            found = sm.Ticket.load(self.path)
        except sm.TicketError:
            return "refused"
        again = sm.Ticket.load(found.save(self.path.with_name("again.ticket")))
        assert again.digest() == found.digest(), "a ticket is not loaded as it was saved"
        try:
            network_of(found)
        except sm.TicketError:
            return "accepted, and its network refused"
        return "accepted"


def bit_flips(mutator: Mutator, bits: list[int]) -> Counter[str]:
    """Flip bits of a file one at a time; each is refused, or in the spaces after the header."""
    counts: Counter[str] = Counter()
    (length,) = struct.unpack("<Q", mutator.data[:8])
    end = len(mutator.data[: 8 + length].rstrip(b" "))
    for bit in bits:
        broken = bytearray(mutator.data)
        broken[bit // 8] ^= 1 << (bit % 8)
        mutator.path.write_bytes(broken)
        try:
            sm.Ticket.load(mutator.path)
        except sm.TicketError:
            counts["refused"] += 1
        else:
            assert end <= bit // 8 < 8 + length, f"bit {bit % 8} of byte {bit // 8} was flipped unseen"
            counts["in the padding"] += 1
    return counts


def main() -> None:
    """Try mutations of every kind in rounds, and write after each how many ended how."""
    from _measure import machine

    parser = argparse.ArgumentParser(description="mutated tickets")
    parser.add_argument("--count", type=int, default=1_000_000, help="mutations (default: 1,000,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: 0)")
    parser.add_argument("--rounds", type=int, default=40, help="the results are written after each")
    folder = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=folder, help="folder for the JSON (default: results/)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rng = np.random.default_rng(options.seed)
    began = time.time()
    options.out.mkdir(parents=True, exist_ok=True)
    every = tickets()
    with tempfile.TemporaryDirectory() as name:
        mutators, counts, bits = {}, {}, {}
        for kind, ticket in every.items():
            folder = Path(name, kind)
            folder.mkdir()
            mutators[kind] = Mutator(ticket, folder)
            counts[kind] = {way: Counter[str]() for way in ("single bits", "damaged", "forged")}
            # Every bit of the file once, if the count allows.
            bits[kind] = rng.permutation(8 * len(mutators[kind].data))[: options.count // len(every) // 3]
        for done in range(options.rounds):
            for kind, mutator in mutators.items():
                some = bits[kind][done :: options.rounds].tolist()
                left = options.count // len(every) // options.rounds - len(some)
                counts[kind]["single bits"] += bit_flips(mutator, some)
                counts[kind]["damaged"] += Counter(mutator.damage(rng) for _ in range(left - left // 4))
                counts[kind]["forged"] += Counter(mutator.forge(rng) for _ in range(left // 4))
            total = sum(sum(ways.values()) for row in counts.values() for ways in row.values())
            rows = [{"ticket": k, "bytes": len(mutators[k].data), **row} for k, row in counts.items()]
            facts = {"mutations": total, "seed": options.seed, "loaded as another ticket": 0}
            facts |= {"exceptions other than TicketError": 0, "seconds": round(time.time() - began)}
            facts |= {"machine": machine(1), "rows": rows}
            write_json(options.out / "ticket-mutations.json", facts)
            print(f"{total} mutations, {facts['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
