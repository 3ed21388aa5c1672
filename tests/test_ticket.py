"""Tickets: size, round trips, factories, and every way in which a file can be damaged or hostile."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import supermask as sm
from supermask import ops
from supermask.io import read_tensors, write_tensors
from supermask.models import create_model
from supermask.prune import apply_mask
from supermask.tickets.container import digest_of
from supermask.tickets.provenance import factory_of
from supermask.tickets.ticket import dense_bytes
from supermask.weights.init import init_of

from .test_search import scramble


@pytest.fixture
def search():
    model = sm.randomize_(create_model("lenet-300-100", in_channels=1, image_size=28), density=0.5)
    return sm.EdgePopup(model, density=0.5, lr=0.1)


@pytest.fixture
def path(search, tmp_path) -> Path:
    return search.ticket().save(tmp_path / "net.ticket")


def test_a_strong_ticket_is_a_seed_and_one_bit_per_weight(search, path):
    weights = 266_200
    assert weights / 8 <= path.stat().st_size <= weights / 8 + 2048
    assert dense_bytes(search.model) == 4 * weights
    assert not sm.Ticket.load(path).values


def test_saving_twice_gives_the_same_bytes(search, path, tmp_path):
    assert search.ticket().save(tmp_path / "again.ticket").read_bytes() == path.read_bytes()
    assert sm.Ticket.load(path).save(tmp_path / "third.ticket").read_bytes() == path.read_bytes()


def test_load_builds_the_same_network(search, path):
    x = torch.randn(4, 1, 28, 28)
    network = sm.load(path)
    assert not network.training
    assert torch.equal(network(x), search.model(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_load_keeps_the_dtype(tmp_path, dtype):
    model = sm.create_model("lenet-300-100", in_channels=1, image_size=8).to(dtype)
    torch.nn.init.normal_(model.get_parameter(next(iter(dict(model.named_parameters())))))
    path = sm.Ticket.from_model(model, {}).save(tmp_path / "net.ticket")
    network = sm.load(path)
    for ours, theirs in zip(model.parameters(), network.parameters(), strict=True):
        assert theirs.dtype == dtype and torch.equal(ours, theirs)
    with pytest.raises(sm.TicketError, match=r"torch\.float32 in the model"):
        sm.Ticket.load(path).apply(sm.create_model("lenet-300-100", in_channels=1, image_size=8))


def test_a_reloaded_strong_ticket_is_still_strong(path):
    ticket = sm.Ticket.load(path)
    again = sm.Ticket.from_model(sm.load(path), ticket.mask())
    assert again.strong and again.checksum() == ticket.checksum()
    assert set(ticket.provenance["versions"]) == {"supermask", "torch"}


def test_info_counts(path):
    info = sm.Ticket.load(path).info()
    assert info["kind"] == "strong" and info["density"] == 0.5 and info["kept_weights"] == 133_100
    assert [layer["kept"] for layer in info["layers"]] == [117_600, 15_000, 500]
    assert info["factory"]["name"] == "lenet-300-100"


def test_a_dense_network_is_a_ticket_without_masks(small_net, tmp_path):
    path = sm.Ticket.from_model(small_net, {}).save(tmp_path / "dense.ticket")
    ticket = sm.Ticket.load(path)
    assert ticket.info()["kind"] == "dense" and ticket.density == 1.0 and not ticket.strong
    twin = ticket.apply(copy.deepcopy(small_net).apply(scramble))
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), small_net.parameters(), strict=True))


def test_timm_models_find_their_factory():
    assert factory_of(timm.create_model("resnet18", num_classes=7)) == {
        "name": "timm/resnet18",
        "args": {"num_classes": 7, "in_channels": 3, "image_size": 224},
    }
    # Arguments that timm does not record would build another network: no factory is claimed.
    assert factory_of(timm.create_model("resnet18", num_classes=7, output_stride=8)) is None
    assert factory_of(torch.nn.Linear(2, 2)) is None


def test_a_network_built_elsewhere_is_applied_not_loaded(small_net, tmp_path):
    search = sm.EdgePopup(sm.randomize_(small_net), density=0.5, lr=0.1)
    path = search.ticket().save(tmp_path / "own.ticket")
    with pytest.raises(sm.TicketError, match=r"ticket\.apply\(model\)"):
        sm.load(path)


def test_a_ticket_does_not_fit_another_model(path, small_net):
    before = small_net.hidden.weight.clone()
    with pytest.raises(sm.TicketError, match="does not fit the model"):
        sm.Ticket.load(path).apply(small_net)
    other = create_model("lenet-300-100", in_channels=1, image_size=20)
    with pytest.raises(sm.TicketError, match=r"\(300, 784\)"):
        sm.Ticket.load(path).apply(other)
    assert torch.equal(before, small_net.hidden.weight)


def test_masks_that_do_not_fit_are_refused(small_net):
    with pytest.raises(ValueError, match="no parameter of the model"):
        sm.Ticket.from_model(small_net, {"head.weight": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"shape \(20, 96\)"):
        sm.Ticket.from_model(small_net, {"hidden.weight": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="outside its mask"):
        sm.Ticket.from_model(small_net, {"hidden.weight": torch.zeros(20, 96, dtype=torch.bool)})


# Damage and malice.


def rewrite(path: Path, change) -> Path:
    """Change the ticket header of a file, and write it back with the digest of what it holds then."""
    tensors, text = read_tensors(path)
    ticket = json.loads(text)
    del ticket["digest"]
    return forge(path, change(ticket) or ticket, tensors)


def forge(path: Path, header, tensors) -> Path:
    """A file with the right digest, as whoever means harm would write it."""
    text = json.dumps(header)[:-1]
    write_tensors(path, tensors, f'{text}, "digest": "{digest_of(text, tensors)}"}}')
    return path


def set_key(key, value):
    def change(ticket):
        ticket[key] = value

    return change


def set_entry(key, value):
    def change(ticket):
        ticket["parameters"][0][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_key("format", "other"), "not a supermask ticket"),
        (set_key("version", 4), "reads versions 1 to 3"),
        (set_key("generator", "mt19937"), "mt19937"),
        (set_key("seed", 1), "checksum"),
        (set_key("seed", -1), "seed must be"),
        (set_key("seed", "0"), "seed must be"),
        (set_key("sha256", "00"), "checksum"),
        (set_key("sha256", None), "checksum"),
        (set_key("parameters", []), "missing or empty"),
        (set_key("parameters", [7]), "not a named object"),
        (set_key("init", 3), "init or provenance"),
        (set_key("factory", "os.system"), "factory"),
        (set_entry("shape", [1 << 33, 1 << 33]), "declares more parameters"),
        (set_entry("shape", [-1, 784]), "no sound shape"),
        (set_entry("shape", [300.5, 784]), "no sound shape"),
        (set_entry("shape", [300, 785]), "has not the"),
        (set_entry("shape", [1] * 33), "no sound shape"),
        (set_entry("shape", [1] * 9), "has not the|coded"),
        (set_entry("dtype", "I8"), "no sound shape"),
        (set_entry("masked", False), "masks are not those"),
        (set_entry("masked", "yes"), "no sound shape"),
        (set_entry("scheme", "eval"), "unknown scheme"),
        (set_entry("scale", float("inf")), "scale"),
        (set_entry("scale", 0.5), "checksum"),
        (set_entry("scale", 10**400), "scale"),
        (set_entry("scale", True), "scale"),
        (set_entry("shape", [0, 784]), "coded as it should|has not the"),
        (set_entry("dtype", []), "no sound shape"),
        (set_entry("dtype", {}), "no sound shape"),
        (set_entry("scheme", []), "unknown scheme"),
        (set_entry("more", 1), "keys that it should be"),
        (set_key("more", 1), "lacks, or has beside"),
        (lambda t: t.pop("provenance") and None, "lacks, or has beside"),
        (set_key("provenance", {"a": "\ud800"}), "UTF-8 cannot write"),
        (set_key("provenance", {"a": 1 << 70}), "beyond 64 bits"),
        (set_entry("name", "\ud800"), "not a named object"),
        (set_entry("name", "other.weight"), "masks are not those"),
        (lambda t: t["parameters"].append(t["parameters"][0]), "twice"),
        (lambda t: t["parameters"][0].pop("scheme") and None, "keys that it should be"),
        (set_entry("zero_row", 0), "checksum"),
        (set_entry("zero_row", 300), "zero_row, 300, that is none of its rows"),
        (set_entry("zero_row", -1), "zero_row, -1"),
        (set_entry("zero_row", True), "zero_row, True"),
        (set_entry("zero_row", None), "zero_row, None"),
        (set_entry("zero_row", 0.0), "zero_row, 0.0"),
        (lambda t: [t], "not JSON"),
    ],
)
def test_a_hostile_header_is_refused(path, change, message):
    with pytest.raises(sm.TicketError, match=message) as caught:
        sm.Ticket.load(rewrite(path, change))
    assert str(path) in str(caught.value)


@pytest.fixture
def varied(tmp_path) -> Path:
    """A file of version 2: inverted signs in the first layer, generations in the second."""
    model = torch.nn.Sequential(torch.nn.Linear(30, 20, bias=False), torch.nn.Linear(20, 10, bias=False))
    sm.randomize_(model, "kaiming_normal", seed=5)
    draws = init_of(model).named()
    mask = {name: torch.rand(p.shape) < 0.5 for name, p in model.named_parameters()}
    with torch.no_grad():
        model[0].weight.mul_(torch.where(torch.rand(20, 30) < 0.5, -1.0, 1.0))
        fresh = draws["1.weight"].weight(5, generation=3)
        model[1].weight.copy_(torch.where(torch.rand(10, 20) < 0.5, fresh, model[1].weight))
    apply_mask(model, mask)
    model.supermask_init = replace(model.supermask_init, generations=3)
    ticket = sm.Ticket.from_model(model, mask)
    assert ticket.strong
    return ticket.save(tmp_path / "varied.ticket")


def set_second(key, value):
    def change(ticket):
        ticket["parameters"][1][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_key("version", 1), "lacks, or has beside"),
        (set_key("version", True), "it has version True"),
        (set_entry("factor", 0), "no sound factor"),
        (set_entry("factor", -1.0), "no sound factor"),
        (set_entry("factor", float("nan")), "no sound factor"),
        (set_entry("factor", "2"), "no sound factor"),
        (set_entry("factor", 1.5), "checksum"),
        (set_entry("binary", 1), "no sound factor and flags"),
        (set_entry("binary", True), "checksum"),
        (set_entry("flipped", "yes"), "no sound factor and flags"),
        (set_entry("flipped", False), "inverted signs are not those"),
        (set_entry("redrawn", True), r"lacks the generations of 0\.weight"),
        (set_second("redrawn", False), "generations are not those"),
        (set_second("flipped", True), r"lacks the inverted signs of 1\.weight"),
        (lambda t: t["parameters"][0].pop("scheme") and None, "stored, and yet said to vary"),
        (set_entry("zero_row", 0), "checksum"),
        (set_entry("masked", False), "no kept weights to be flipped"),
    ],
)
def test_a_hostile_variation_is_refused(varied, change, message):
    with pytest.raises(sm.TicketError, match=message):
        sm.Ticket.load(rewrite(varied, change))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("flips", lambda bits: bits[:-1], r"inverted signs of 0\.weight has not the"),
        ("flips", lambda bits: bits.bool(), "has not the"),
        ("flips", lambda bits: bits | 0x80, "past its end|checksum"),
        ("generations", lambda planes: planes[:0], "1 to 12 rows"),
        ("generations", lambda planes: planes[0], "1 to 12 rows"),
        ("generations", lambda planes: planes.repeat(7, 1), "1 to 12 rows"),
        ("generations", lambda planes: planes[:, :-1], r"generations of 1\.weight has not the"),
    ],
)
def test_packed_bits_of_the_wrong_size_are_refused(varied, tmp_path, kind, change, message):
    ticket = sm.Ticket.load(varied)
    honest = ticket.checksum()
    entries = []
    for entry in ticket.entries:
        bits = getattr(entry.derivation, kind)
        changed = {} if bits is None else {kind: change(bits).contiguous()}
        entries.append(replace(entry, derivation=replace(entry.derivation, **changed)))
    forged = replace(ticket, entries=tuple(entries))
    object.__setattr__(forged, "checksum", lambda: honest)
    object.__setattr__(forged, "_last_generation", lambda: 0)
    with pytest.raises(sm.TicketError, match=message):
        sm.Ticket.load(forged.save(tmp_path / "forged.ticket"))


def test_the_number_of_draws_is_bounded(varied, tmp_path):
    # 800 weights, of which 200 may be of any of 2^12 generations: here every kept one is of its own.
    ticket = sm.Ticket.load(varied)
    kept = ticket.kept["1.weight"]
    numbers = torch.arange(kept) + 4000
    planes = torch.stack([ops.pack_mask((numbers >> digit) & 1 == 1) for digit in range(12)])
    forged = replace(ticket.entries[1], derivation=replace(ticket.entries[1].derivation, generations=planes))
    ticket = replace(ticket, entries=(ticket.entries[0], forged))
    path = ticket.save(tmp_path / "many.ticket")
    assert sm.Ticket.load(path, max_parameters=200 * kept).strong
    with pytest.raises(sm.TicketError, match=r"asks for \d+ draws, more than"):
        sm.Ticket.load(path, max_parameters=800)


def test_huge_declared_networks_allocate_nothing(path):
    # A constant takes no bytes in the file, whatever its shape.
    def grow(ticket):
        ticket["parameters"].append(
            {
                "name": "x",
                "shape": [1 << 39],
                "dtype": "F32",
                "masked": False,
                "scheme": "constant",
                "scale": 0,
            }
        )

    with pytest.raises(sm.TicketError, match="declares more parameters"):
        sm.Ticket.load(rewrite(path, grow))


@pytest.mark.parametrize(
    "factory",
    [
        {"name": "timm/resnet18", "args": {"pretrained": True}},
        {"name": "hf-hub:someone/something", "args": {}},
        {"name": "timm/resnet18", "args": {"num_classes": 10**12}},
        {"name": "no-such-network", "args": {}},
        {"name": "lenet-300-100", "args": {"image_size": 28, "in_channels": 3}},
        {"name": "lenet-300-100", "args": {"__class__": 1}},
        {"name": "lenet-300-100", "args": {}, "code": "print(1)"},
        {"name": 3, "args": {}},
    ],
)
def test_a_hostile_factory_builds_nothing(path, factory):
    with pytest.raises(sm.TicketError):
        sm.load(rewrite(path, set_key("factory", factory)))


def test_bits_past_the_end_of_a_mask_are_refused(tmp_path):
    model = torch.nn.Linear(3, 3, bias=False)
    ticket = sm.EdgePopup(sm.randomize_(model), density=0.5, lr=0.1).ticket()
    ticket.masks["weight"][-1] |= 0x80
    with pytest.raises(sm.TicketError, match="past its end"):
        sm.Ticket.load(ticket.save(tmp_path / "net.ticket"))


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        sm.Ticket.load(tmp_path / "absent.ticket")
    for name, content in (
        ("empty", b""),
        ("text", b"hello there, this is no ticket"),
        ("zip", b"PK\x03\x04" * 9),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(sm.TicketError, match=name):
            sm.Ticket.load(tmp_path / name)
    np.save(tmp_path / "array.npy", np.zeros(4))
    with pytest.raises(sm.TicketError):
        sm.Ticket.load(tmp_path / "array.npy")
    torch.save({"a": torch.zeros(2)}, tmp_path / "pickle.pt")
    with pytest.raises(sm.TicketError):
        sm.Ticket.load(tmp_path / "pickle.pt")


def test_a_failed_save_leaves_the_old_file(path, search, monkeypatch):
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        search.ticket({"note": "other"}).save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
