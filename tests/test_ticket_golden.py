"""Files of every version of the format load to the bits that they were saved from."""

import hashlib
from pathlib import Path

import pytest
import torch

import supermask as sm
from supermask.info import describe_tickets
from supermask.tickets.container import bytes_of

GOLDEN = Path(__file__).parent / "golden"
# Version → SHA-256 of the weights, as the ticket of that time had it, and of the buffers by name.
SAVED = {
    1: (
        "d55a50bf1a00eb34edaf0a55d8ab0f00af8dd84a2d9209899e84729fcd661903",
        "58aae4c280ddd9fdf3c1e6bb38af944a39c3b09e49379efadba9a47bea669662",
    ),
    2: (
        "59c7482e59785e4ef214f62a61f9403bed275db879a1907dc2e1cd378652c0f7",
        hashlib.sha256().hexdigest(),
    ),
    3: (
        "d55a50bf1a00eb34edaf0a55d8ab0f00af8dd84a2d9209899e84729fcd661903",
        "58aae4c280ddd9fdf3c1e6bb38af944a39c3b09e49379efadba9a47bea669662",
    ),
}


def path_of(version: int) -> Path:
    return GOLDEN / f"version-{version}.ticket"


@pytest.mark.parametrize("version", SAVED)
def test_old_files_load_to_the_same_bits(version):
    ticket = sm.Ticket.load(path_of(version))
    assert ticket.version == version and ticket.strong
    assert ticket.checksum() == SAVED[version][0]
    digest = hashlib.sha256(
        b"".join(bytes(bytes_of(ticket.buffers[name])) for name in sorted(ticket.buffers))
    )
    assert digest.hexdigest() == SAVED[version][1]
    network = sm.load(path_of(version))
    for name, weight in ticket.weights().items():
        assert torch.equal(network.get_parameter(name), weight)


def test_saving_gives_the_bytes_of_the_golden_file(tmp_path):
    ticket = sm.Ticket.load(path_of(3))
    assert ticket.save(tmp_path / "again.ticket").read_bytes() == path_of(3).read_bytes()
    # What version 1 held is what version 3 holds.
    old = sm.Ticket.load(path_of(1))
    assert old.save(tmp_path / "new.ticket").read_bytes() == path_of(3).read_bytes()
    assert old.digest() == ticket.digest()


def test_a_golden_file_with_padding_rows(tmp_path):
    ticket = sm.Ticket.load(GOLDEN / "zero-row.ticket")
    assert ticket.strong and not ticket.values
    assert ticket.checksum() == "98627c632ae173b95d0fa53df831468fa7e99926697cefdb674f2936f319df04"
    rows = {entry.name: entry.draw.zero_row for entry in ticket.entries if entry.draw}
    assert rows == {"word.weight": 3, "tag.weight": 4, "linear.weight": None, "linear.bias": None}
    weights = ticket.weights()
    assert not weights["word.weight"][3].any() and weights["word.weight"].count_nonzero() == 11 * 6
    again = ticket.save(tmp_path / "again.ticket")
    assert again.read_bytes() == (GOLDEN / "zero-row.ticket").read_bytes()


@pytest.mark.parametrize("version", SAVED)
def test_what_is_less_protected_says_so(version):
    ticket = sm.Ticket.load(path_of(version))
    told = (repr(ticket), ticket.info()["protection"], describe_tickets([str(path_of(version))]))
    assert all(("less protected" in text) == (version < 3) for text in told)
    assert ticket.info()["format_version"] == version


@pytest.mark.parametrize("version", [1, 2])
def test_a_damaged_old_file_raises_nothing_else(version, tmp_path):
    """One bit in every third byte."""
    data = path_of(version).read_bytes()
    for place in range(0, len(data), 3):
        broken = bytearray(data)
        broken[place] ^= 1 << (place % 8)
        (tmp_path / "broken.ticket").write_bytes(broken)
        try:
            found = sm.Ticket.load(tmp_path / "broken.ticket")
        except sm.TicketError:
            continue
        # The checksum of old files is of the weights, in the order of the entries.
        assert found.checksum() == SAVED[version][0]
