"""Tickets on the Hub, against a stand-in for it on the loopback."""

import huggingface_hub.constants
import pytest
import torch

import supermask as sm
from supermask.cli import main
from supermask.tickets import hub
from tests.hub_server import Hub, serving


@pytest.fixture
def server(monkeypatch, tmp_path):
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


@pytest.fixture(scope="module")
def ticket() -> sm.Ticket:
    model = sm.create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=8)
    sm.randomize_(model, init="signed_constant", seed=0, density=0.5)
    return sm.EdgePopup(model, density=0.5, lr=0.1).ticket(provenance={"data": "digits"})


def test_a_ticket_comes_back_from_the_hub_bit_for_bit(server: Hub, ticket, tmp_path):
    address = ticket.push_to_hub("somebody/digits", token="secret", accuracy=0.9721)
    assert address.startswith(f"{server.address}/somebody/digits/commit/")
    assert server.tokens == ["Bearer secret"]
    network = sm.load("hf://somebody/digits")
    weights = ticket.weights()
    assert all(torch.equal(p, weights[name]) for name, p in network.named_parameters())
    assert sm.Ticket.load("hf://somebody/digits").checksum() == ticket.checksum()


def test_the_card_says_what_it_is_and_how_to_load_it(server: Hub, ticket, tmp_path):
    ticket.push_to_hub("somebody/digits", token="secret", accuracy=0.9721)
    files = server.repositories["somebody/digits"]["main"]
    card = files["README.md"].decode()
    assert set(files) == {"README.md", hub.FILE}
    metadata = huggingface_hub.ModelCard(card).data
    (result,) = metadata.eval_results
    assert metadata.library_name == "supermask"
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("digits", "accuracy", 0.9721)
    size = len(files[hub.FILE])
    assert f"{size:,} bytes; 200,800 as dense float32 ({200800 / size:.1f}×)" in card
    for said in ("97.21 %", "`lenet-300-100`", 'sm.load("hf://somebody/digits")', '"method": "edge-popup"'):
        assert said in card


def test_a_card_without_accuracy_or_network_claims_neither(ticket):
    info = {**ticket.info(), "factory": None}
    card = hub.card(info, 1000, "somebody/digits")
    assert "accuracy" not in card and ".apply(model)" in card


def test_a_branch_is_written_and_read_by_its_name(server: Hub, ticket):
    ticket.push_to_hub("somebody/digits", token="secret", revision="next")
    assert sm.Ticket.load("hf://somebody/digits@next").checksum() == ticket.checksum()
    with pytest.raises(hub.HubError, match="holds no ticket"):
        hub.local_file("hf://somebody/digits")


def test_what_is_not_there_is_named(server: Hub, ticket):
    with pytest.raises(hub.HubError, match="there is no repository somebody/else"):
        hub.local_file("hf://somebody/else")
    ticket.push_to_hub("somebody/digits", token="secret")
    with pytest.raises(hub.HubError, match="has no revision 'v2'"):
        hub.local_file("hf://somebody/digits@v2")


@pytest.mark.parametrize(
    "address", ["hf://", "hf://name", "hf://a/b/c", "hf://../..", "hf://a/b@", "hf://a b/c"]
)
def test_a_wrong_address_is_refused_before_anything_is_asked(server: Hub, address, capsys):
    with pytest.raises(hub.AddressError, match="no address of a ticket"):
        hub.local_file(address)
    for command in (["info"], ["eval"], ["diff", address]):
        assert main([*command, address]) == 2
        assert "hf://" in capsys.readouterr().err
    assert main(["export", address, "network.onnx"]) == 2
    assert not server.asked


def test_a_damaged_download_is_refused_like_any_file(server: Hub, ticket):
    ticket.push_to_hub("somebody/digits", token="secret")
    files = server.repositories["somebody/digits"]["main"]
    files[hub.FILE] = files[hub.FILE][:-5]
    with pytest.raises(sm.TicketError):
        sm.load("hf://somebody/digits")


def test_nothing_is_fetched_without_the_prefix(server: Hub, tmp_path):
    with pytest.raises(FileNotFoundError):
        sm.load("somebody/digits")
    assert not server.asked
