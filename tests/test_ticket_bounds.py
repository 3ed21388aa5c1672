"""What tickets can hold, what they may ask of a reader, and that what is saved is loaded."""

import json
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import supermask as sm
from supermask import ops
from supermask.io import read_tensors, write_tensors
from supermask.models.limits import TooLargeError, limited_construction
from supermask.tickets import bounds
from supermask.tickets.container import digest_of
from supermask.tickets.network import network_of


def entropy(density: float) -> float:
    return -density * math.log2(density) - (1 - density) * math.log2(1 - density)


def exact_mask(size: int, density: float) -> torch.Tensor:
    order = torch.randperm(size, generator=torch.Generator().manual_seed(size))
    mask = torch.zeros(size, dtype=torch.bool)
    mask[order[: round(density * size)]] = True
    return mask


@pytest.mark.parametrize(("density", "most"), [(0.01, 0.086), (0.1, 0.48), (0.3, 0.89)])
@pytest.mark.parametrize("size", [30_000, 235_200, 1_000_003])
def test_masks_take_their_entropy(size, density, most):
    coded = ops.encode_mask(exact_mask(size, density))
    assert entropy(density) * size <= 8 * coded.numel() <= most * size


def test_the_file_has_the_smaller_form_of_each_mask(tmp_path):
    model = nn.Sequential(nn.Linear(400, 100, bias=False), nn.Linear(100, 4, bias=False))
    search = sm.EdgePopup(sm.randomize_(model), density=0.1, lr=0.1)
    path = search.ticket().save(tmp_path / "sparse.ticket")
    assert set(read_tensors(path)[0]) == {"coded/0.weight", "coded/1.weight"}
    search = sm.EdgePopup(sm.randomize_(model), density=0.5, lr=0.1)
    path = search.ticket().save(tmp_path / "half.ticket")
    assert set(read_tensors(path)[0]) == {"mask/0.weight", "mask/1.weight"}
    assert path.stat().st_size < 40_400 / 8 + 1500


class Odd(nn.Module):
    """Parameters of every kind that a ticket holds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        self.index = nn.Parameter(torch.arange(8), requires_grad=False)
        self.flags = nn.Parameter(torch.tensor([True, False]), requires_grad=False)
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.scalar = nn.Parameter(torch.tensor(1.5))
        self.deep = nn.Parameter(torch.rand([1, 2] * 5))
        self.register_buffer("nothing", torch.empty(0))
        self.register_buffer("bytes", torch.arange(3, dtype=torch.uint8))


def test_parameters_of_every_kind_come_back(tmp_path):
    model = Odd()
    mask = {"linear.weight": torch.arange(32).view(4, 8) % 5 == 0}
    with torch.no_grad():
        model.linear.weight.mul_(mask["linear.weight"])
    ticket = sm.Ticket.load(sm.Ticket.from_model(model, mask).save(tmp_path / "odd.ticket"))
    for name, weight in ticket.weights().items():
        assert (
            torch.equal(weight, model.get_parameter(name)) and weight.dtype == model.get_parameter(name).dtype
        )
    twin = Odd()
    with torch.no_grad():
        twin.scalar.zero_()
        twin.get_buffer("bytes").zero_()
    ticket.apply(twin)
    assert twin.scalar.item() == 1.5 and torch.equal(twin.get_buffer("bytes"), model.get_buffer("bytes"))
    assert ticket.info()["masked_weights"] == 32


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, dtype=torch.complex64), "complex64"),
        (torch.zeros([1] * 33), "33 dimensions"),
        (torch.zeros(2, 2).to_sparse(), "sparse"),
    ],
)
def test_what_no_ticket_holds_is_refused_by_name_when_the_search_is_made(tensor, message):
    model = sm.randomize_(nn.Linear(4, 4))
    model.register_buffer("odd", tensor)
    with pytest.raises(ValueError, match=rf"buffer 'odd' .*{message}"):
        sm.EdgePopup(model, density=0.5, lr=0.1)
    with pytest.raises(ValueError, match="buffer 'odd'"):
        sm.Ticket.from_model(model, {})


def test_meta_tensors_are_refused():
    ticket = sm.EdgePopup(sm.randomize_(nn.Linear(8, 4)), density=0.5, lr=0.1).ticket()
    with torch.device("meta"):
        model = nn.Linear(8, 4)
    with pytest.raises(sm.TicketError, match="to_empty"):
        ticket.apply(model)
    with pytest.raises(ValueError, match="'weight' is on the meta device"):
        sm.Ticket.from_model(model, {})


@pytest.mark.parametrize(
    "value",
    [
        *(float("nan"), float("inf"), np.float32(1), np.float64(1), np.int64(1), torch.tensor(1)),
        *({1: 2}, b"x", {3}, 1 << 64, "\ud800", {"\ud800": 1}, object()),
    ],
)
def test_provenance_that_is_not_json_is_refused_where_it_is_given(value):
    search = sm.EdgePopup(sm.randomize_(nn.Linear(4, 4)), density=0.5, lr=0.1)
    with pytest.raises(ValueError, match=r"provenance\['run'\]"):
        search.ticket({"run": value})
    with pytest.raises(ValueError, match=r"provenance\['runs'\]\[1\]"):
        sm.Ticket.from_model(search.model, search.mask, provenance={"runs": [0, value]})


def test_json_comes_back_as_it_was_given(tmp_path):
    facts = {"a": [1, 2.5, None, True, {"b": "ü"}], "c": (1 << 64) - 1}
    search = sm.EdgePopup(sm.randomize_(nn.Linear(4, 4)), density=0.5, lr=0.1)
    ticket = sm.Ticket.load(search.ticket({**facts, "pair": (1, 2)}).save(tmp_path / "net.ticket"))
    assert {key: ticket.provenance[key] for key in facts} == facts and ticket.provenance["pair"] == [1, 2]


# What a file may ask for.


def test_a_drawn_table_before_a_small_classifier_is_loaded(tmp_path):
    model = nn.Sequential(nn.EmbeddingBag(60_000, 300), nn.Linear(300, 64), nn.ReLU(), nn.Linear(64, 2))
    path = sm.EdgePopup(sm.randomize_(model), density=0.5, lr=0.1).ticket().save(tmp_path / "net.ticket")
    assert path.stat().st_size < 6000
    assert sm.Ticket.load(path).strong


def test_what_is_too_much_to_draw_is_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "FREE_BYTES", 1 << 12)
    model = sm.randomize_(nn.Sequential(nn.EmbeddingBag(2000, 40), nn.Linear(40, 4)))
    search = sm.EdgePopup(model, density=0.5, lr=0.1)
    with pytest.warns(UserWarning, match=r"stores the values of 0\.weight"):
        ticket = search.ticket()
    assert ticket.strong and set(ticket.values) == {"0.weight"}
    loaded = sm.Ticket.load(ticket.save(tmp_path / "net.ticket"))
    assert torch.equal(loaded.weights()["0.weight"], model[0].weight)


def test_masks_are_coded_only_as_far_as_readers_allow(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "FREE_BYTES", 1 << 12)
    model = sm.randomize_(nn.Linear(1000, 1000, bias=False))
    ticket = sm.EdgePopup(model, density=1e-4, lr=0.1).ticket()
    path = ticket.save(tmp_path / "net.ticket")
    assert path.stat().st_size > 125_000
    assert sm.Ticket.load(path).digest() == ticket.digest()


def forged(path, entry, tensors=None):
    """A file of one parameter, with the right digest and a checksum that nobody will come to compare."""
    header = {"format": "supermask/ticket", "version": 3, "generator": "philox4x32-10", "seed": 0}
    header |= {"init": "x", "parameters": [{"name": "w", "dtype": "F32", "masked": False, **entry}]}
    header |= {"sha256": "0", "factory": None, "provenance": {}}
    text = json.dumps(header)[:-1]
    write_tensors(path, tensors or {}, f'{text}, "digest": "{digest_of(text, tensors or {})}"}}')
    return path


@contextmanager
def at_most(nbytes: int) -> Iterator[None]:
    """Fail where the memory of this process grows by more, for a moment; where Linux tells."""

    def kilobytes(field: str) -> int:
        return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is the present size
        before = kilobytes("VmHWM")
    except (OSError, TypeError):
        yield
        return
    try:
        yield
    finally:
        assert 1024 * (kilobytes("VmHWM") - before) < nbytes


def test_the_peak_of_memory_is_seen():
    with pytest.raises(AssertionError), at_most(100 << 20):
        torch.ones(60 << 20)
    with at_most(100 << 20):
        torch.ones(1 << 20)


DRAWN = {"scheme": "normal", "scale": 1.0}


def test_a_small_file_cannot_ask_for_a_large_network(tmp_path):
    began = time.perf_counter()
    tensors = {"coded/w": ops.encode_mask(torch.zeros(1 << 20, dtype=torch.bool))}
    with at_most(100 << 20):
        for shape in ([1 << 27], [1 << 20, 1 << 20], [(1 << 40) - 1] * 32):
            with pytest.raises(sm.TicketError, match="declares more parameters"):
                sm.Ticket.load(forged(tmp_path / "net.ticket", {"shape": shape, **DRAWN}))
        with pytest.raises(sm.TicketError, match="declares more parameters"):
            sm.Ticket.load(forged(tmp_path / "net.ticket", {"shape": [1 << 26], **DRAWN, "dtype": "F64"}))
        hostile = {"shape": [1 << 30], "masked": True, **DRAWN}
        with pytest.raises(sm.TicketError, match="declares more parameters"):
            sm.Ticket.load(forged(tmp_path / "net.ticket", hostile, tensors))
        megabyte = {"coded/w": torch.zeros(1 << 20, dtype=torch.uint8)}
        for size in (1 << 30, 1 << 28):
            with pytest.raises(sm.TicketError, match=r"declares more parameters|coded as it should"):
                sm.Ticket.load(forged(tmp_path / "net.ticket", {**hostile, "shape": [size]}, megabyte))
    assert time.perf_counter() - began < 10


def test_generations_are_draws(tmp_path):
    """A file of 138 kB that asks for 4095 draws of 100,000 weights is refused before the first."""
    size, kept = 200_000, 70_000
    mask = torch.arange(size) < kept
    numbers = torch.arange(kept) % 4095 + 1
    planes = torch.stack([ops.pack_mask((numbers >> digit) & 1 == 1) for digit in range(12)])
    tensors = {"coded/w": ops.encode_mask(mask), "generation/w": planes}
    entry = {"shape": [size], "masked": True, **DRAWN}
    entry |= {"binary": False, "factor": 1.0, "flipped": False, "redrawn": True}
    path = forged(tmp_path / "net.ticket", entry, tensors)
    with pytest.raises(sm.TicketError, match=r"asks for \d+ draws"), at_most(100 << 20):
        sm.Ticket.load(path)


@pytest.fixture(scope="module")
def resnet():
    model = sm.create_model("timm/resnet10t", num_classes=4, image_size=32)
    return sm.EdgePopup(sm.randomize_(model), density=0.3, lr=0.1).ticket()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("timm/resnet10t", {"layers": [1048576] * 4}, "'layers' is 1048576, .* allow for 16384 at most"),
        ("timm/resnet10t", {"layers": [16384] * 4}, "more than .* modules|calls of functions"),
        ("timm/resnet10t", {"channels": [16384] * 4}, "parameters take more than"),
        ("timm/rexnet_100", {"depth_mult": 16384}, "calls of functions|modules"),
        ("timm/beit_base_patch16_224", {"image_size": 16384}, "take more than"),
        ("timm/vit_tiny_patch16_224", {"depth": 1 << 20}, "'depth' is 1048576"),
        ("timm/vit_tiny_patch16_224", {"depth": 1 << 14}, "more than .* modules|calls of functions"),
        ("timm/resnet10t", {"drop_path_rate": -1e300}, "'drop_path_rate' is -1e"),
        ("timm/resnet10t", {"stem_width": 64}, "other parameters|cannot be built"),
    ],
)
def test_hostile_factories_stop_early(resnet, name, arguments, message):
    began = time.process_time()
    arguments = {"num_classes": 4, "image_size": 32, **arguments}
    hostile = replace(resnet, factory={"name": name, "args": arguments})
    with pytest.raises(sm.TicketError, match=message), at_most(300 << 20):
        network_of(hostile)
    assert time.process_time() - began < 20


def test_networks_of_every_own_family_load(tmp_path):
    for name in ("conv-2", "resnet-20", "folded-resnet-20", "vgg-11", "lenet-5"):
        model = sm.randomize_(sm.create_model(name, width=0.125, image_size=32))
        ticket = sm.EdgePopup(model, density=0.3, lr=0.1).ticket()
        built = network_of(ticket)
        assert all(torch.equal(a, b) for a, b in zip(built.parameters(), model.parameters(), strict=True))


def test_a_network_that_computes_its_widths_with_tensors_loads(tmp_path):
    model = sm.randomize_(sm.create_model("torchvision/regnet_y_400mf", num_classes=4))
    ticket = sm.EdgePopup(model, density=0.3, lr=0.1).ticket()
    built = network_of(ticket)
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), model.parameters(), strict=True))


def test_construction_is_limited_in_the_context_alone():
    with limited_construction(parts=3, nbytes=1000):
        nn.Linear(3, 3)
    with pytest.raises(TooLargeError, match="more than 3 modules"), limited_construction(3, 1000):
        nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with pytest.raises(TooLargeError, match="parameters take"), limited_construction(30, 1000):
        nn.Linear(30, 30)
    with pytest.raises(TooLargeError, match="calls"), limited_construction(30, 1000, calls=50):
        sorted(range(1000), key=lambda value: -value)
    nn.Sequential(*(nn.Linear(100, 100) for _ in range(9)))
