"""The zoo: every ticket loads, has the accuracy of its card, and is found by its name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import supermask as sm
from supermask import zoo
from supermask.cli import main
from supermask.tickets.ticket import Ticket

ROOT = Path(__file__).parent.parent
NAMES = sm.list_tickets()
MOST = 4_000_000


def test_there_are_tickets_and_they_are_small():
    assert "mnist-lenet-300-100" in NAMES
    assert sum(zoo.ticket_file(name).stat().st_size for name in NAMES) < MOST
    assert {path.stem for path in zoo.FOLDER.glob("*.json")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_ticket_is_what_its_card_says(name):
    card, ticket = zoo.ticket_card(name), Ticket.load(f"zoo:{name}")
    assert ticket.strong and card["name"] == name and card["bytes"] == zoo.ticket_file(name).stat().st_size
    assert (ROOT / card["recipe"]).is_file()
    assert card["density"] == ticket.density
    recorded = ticket.provenance
    assert (recorded["method"], recorded["data"]) == (card["method"], card["data"])
    assert f"-s{card['seed']}-" in recorded["run"]
    assert ticket.factory["name"] == card["model"]
    network = sm.load(f"zoo:{name}")
    shape = [ticket.factory["args"][key] for key in ("in_channels", "image_size", "image_size")]
    assert network(torch.zeros(1, *shape)).shape == (1, ticket.factory["args"]["num_classes"])


def test_a_first_load_may_import_what_torch_needs():
    """On the meta device torch.eye imports 900 modules, more calls than a constructor may take."""
    code = "import supermask as sm; print(type(sm.load('zoo:cifar10-airbench-quarter')).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def accuracy(capsys):
    """Accuracy of a ticket, as the command says it."""

    def measured(name: str, root: str) -> float:
        command = ["eval", f"zoo:{name}", "--data-root", root, "--device", "cpu", "--json"]
        assert main(command) == 0
        return json.loads(capsys.readouterr().out)["accuracy"]

    return measured


def test_the_ticket_of_the_digits_has_the_accuracy_of_its_card(accuracy):
    assert accuracy("digits-lenet-300-100", "data") == zoo.ticket_card("digits-lenet-300-100")["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_ticket_has_the_accuracy_of_its_card(name, accuracy):
    """The order of sums may turn an image or two on another machine."""
    root = os.environ.get("SUPERMASK_DATA", "data")
    data = zoo.ticket_card(name)["data"]
    if data != "digits" and not any(Path(root).glob("*")):
        pytest.skip(f"{data} does not lie in {root}; SUPERMASK_DATA names the folder")
    assert accuracy(name, root) == pytest.approx(zoo.ticket_card(name)["accuracy"], abs=5e-4)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("mnist-lenet300-100", "did you mean zoo:mnist-lenet-300-100"),
        ("mnist", "did you mean zoo:mnist-lenet-300-100"),
        ("qqq", "`supermask zoo` lists all"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(wrong, meant, capsys):
    with pytest.raises(FileNotFoundError, match=meant):
        sm.load(f"zoo:{wrong}")
    for call in (["zoo", wrong], ["info", f"zoo:{wrong}"], ["eval", f"zoo:{wrong}"]):
        assert main(call) == 2
        assert meant in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../zoo/digits-lenet-300-100", "", "digits-lenet-300-100.ticket"])
def test_a_name_leads_to_no_other_file(name):
    with pytest.raises(FileNotFoundError, match="in the zoo"):
        zoo.ticket_file(name)


def test_the_commands_know_the_zoo(capsys):
    assert main(["zoo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "accuracy", "bytes", "seed", "recipe"]
    assert [line.split()[0] for line in lines[1:-1]] == NAMES
    assert main(["zoo", "--json"]) == 0
    assert [card["name"] for card in json.loads(capsys.readouterr().out)] == NAMES
    assert main(["info", "zoo:mnist-lenet-300-100", "--json"]) == 0
    facts, card = json.loads(capsys.readouterr().out), zoo.ticket_card("mnist-lenet-300-100")
    assert facts["multiply_adds"] == card["multiply_adds"] == facts["kept_weights"] == 133_100
    assert main(["eval", "zoo:digits-lenet-300-100"]) == 0
    assert f"{100 * zoo.ticket_card('digits-lenet-300-100')['accuracy']:.2f} %" in capsys.readouterr().out
