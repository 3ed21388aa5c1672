"""What is wrong with an argument is said at the call: its name, the value and what is wanted."""

import math
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import supermask as sm
from supermask import masks, prune
from supermask.cli import main
from supermask.data import Loader, Selection, load_data
from supermask.training.loop import Checkpoint, fit


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def drawn() -> nn.Module:
    return sm.randomize_(network(), density=0.5)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


X, Y = torch.zeros(4, 8), torch.zeros(4, dtype=torch.long)
MASK = {"0.weight": torch.ones(8, 8, dtype=torch.bool)}
ONES = {"a": torch.ones(4)}


def trained(**options):
    model = drawn()
    return fit(model, sgd(model), options.pop("batches", lambda step: (X, Y)), **{"steps": 1, **options})


def searched(method="edge-popup", **options):
    return sm.create_search(method, drawn(), **{"density": 0.5, "lr": 0.1, **options})


def pruned(**options):
    return list(sm.imp(network(), lambda *_, **__: None, **{"rounds": 1, **options}))


def digits_loader(images="train", **options):
    data = load_data("digits")
    chosen = data.train if images == "train" else data
    return Loader(chosen, **{"batch_size": 8, "seed": 0, "mean": data.mean, "std": data.std, **options})


CASES = {
    # What is no module.
    "a search of parameters": (
        lambda: sm.EdgePopup(drawn().parameters(), density=0.5),
        "an nn.Module, not a generator",
    ),
    "a search of a class": (lambda: sm.EdgePopup(nn.Linear, density=0.5), "not the class Linear"),
    "a draw of a class": (lambda: sm.randomize_(nn.Linear), "not the class Linear"),
    "a ticket onto a state": (lambda: ticket().apply(network().state_dict()), "not a OrderedDict"),
    "a ticket of a search": (lambda: sm.Ticket.from_model(searched(), MASK), "not a EdgePopup"),
    "hold in another order": (lambda: sm.hold(sgd(network()), network(), MASK), "not a dict"),
    "an ensemble of nothing": (lambda: sm.Ensemble([]), "give at least one network"),
    "an ensemble of classes": (lambda: sm.Ensemble([nn.ReLU]), "not the class ReLU"),
    "accelerated class": (lambda: sm.accelerated(nn.Linear).__enter__(), "not the class Linear"),
    "fit without parameters": (
        lambda: fit(nn.ReLU(), sgd(network()), None.__class__, steps=1),
        "no parameters",
    ),
    # What is no mask, no ticket, no scores, no state.
    "a ticket of one tensor": (
        lambda: sm.Ticket.from_model(network(), MASK["0.weight"]),
        r"as search\.mask and ticket\.mask\(\) do, and cannot be a Tensor",
    ),
    "a ticket of a list": (
        lambda: sm.Ticket.from_model(network(), {"0.weight": [1]}),
        "the mask of 0.weight must be a bool tensor, not a list",
    ),
    "hold of a ticket": (lambda: hold(ticket()), "cannot be a Ticket"),
    "hold of a list": (lambda: hold({"0.weight": [[True]]}), "must be a bool tensor, not a list"),
    "a mask on another layer": (
        lambda: prune.apply_mask(network(), {"z": MASK["0.weight"]}),
        "names z, which is no parameter",
    ),
    "a mask of floats": (
        lambda: prune.apply_mask(network(), {"0.weight": torch.ones(8, 8)}),
        "the mask of 0.weight is torch.float32",
    ),
    "packed by a path": (
        lambda: sm.pack(network(), Path("a.ticket")),
        "Ticket.load.path. reads it, not a Posix",
    ),
    "scores of one tensor": (
        lambda: searched(scores=torch.ones(8, 8)),
        "search.scores does, and cannot be a Tensor",
    ),
    "scores of a list": (
        lambda: searched(scores={"0.weight": [1]}),
        "are list; they must be a tensor of shape",
    ),
    "no state": (lambda: searched().load_state_dict(None), "cannot be a NoneType"),
    "a state of SGD": (
        lambda: searched().load_state_dict(sgd(network()).state_dict()),
        "the state lacks search, base, steps; give what state_dict",
    ),
    # Names that do not go together.
    "a draw that lacks a density": (
        lambda: sm.randomize_(network(), density={"0.weight": 0.5}),
        "density has none for 2.weight; give one number, or one for each of 0.weight, 2.weight",
    ),
    "a draw with a density too many": (
        lambda: sm.randomize_(network(), density={"0.weight": 0.5, "2.weight": 0.5, "7.weight": 0.5}),
        "density names '7.weight'",
    ),
    "counts of another layer": (lambda: prune.magnitude(ONES, {"b": 2}), "keep has no count for a"),
    "a share for a count": (
        lambda: prune.magnitude(ONES, 0.5),
        "keep is a count for each layer, and cannot be a f",
    ),
    "survivors of another layer": (
        lambda: prune.magnitude(ONES, {"a": 2}, {"b": ONES["a"] > 0}),
        "the mask of the survivors lacks a",
    ),
    "initial weights of another layer": (
        lambda: prune.by_criterion("movement", {"b": torch.ones(4)}, ONES, {"a": 2}),
        "weights of the same layers, not of b and of a",
    ),
    "selection of another layer": (lambda: masks.select(ONES, {"b": 1}), "keep has no count for a"),
    "a random mask of another layer": (
        lambda: masks.random_mask({"a": (4,)}, {"b": 1}, 0),
        "has no count for a",
    ),
    "a search before its name": (
        lambda: sm.create_search(drawn(), "edge-popup"),
        "the name is no Sequential",
    ),
    # Numbers that are none, or out of range.
    "a rate that is no number": (lambda: searched(lr=math.nan), "lr must be a finite number, not nan"),
    "momentum that is no number": (
        lambda: searched(momentum=math.inf),
        "momentum must be a finite number, not inf",
    ),
    "momentum as text": (lambda: searched(momentum="0.9"), r"these options \(lr=0.1, momentum='0.9'\)"),
    "a rule that is made": (
        lambda: searched(base=sgd(network())),
        "its class, such as torch.optim.Adam, not a SGD",
    ),
    "a density as text": (
        lambda: sm.randomize_(network(), density="0.5"),
        r"\(0, 1\], not '0.5' \(for 0.weight\)",
    ),
    "a gain as text": (lambda: sm.randomize_(network(), gain="2"), "a number above 0, not '2'"),
    "a gain that is no number": (
        lambda: sm.randomize_(network(), gain=math.nan),
        "a number above 0, not nan",
    ),
    "a gain of 0": (lambda: sm.randomize_(network(), gain=0), "a number above 0, not 0"),
    "a plan of nothing": (lambda: searched().plan(0, 0), "both at least 1, not 0 and 0"),
    "a plan of nothing for Gem-Miner": (
        lambda: searched("gem-miner").plan(0, 0),
        "both at least 1, not 0 and 0",
    ),
    "a penalty as text": (lambda: searched("gem-miner", penalty="x"), "must not be negative, not 'x'"),
    "a period that is infinite": (
        lambda: searched("gem-miner", period=math.inf),
        "a number of epochs above 0, not inf",
    ),
    "a share as text": (lambda: searched("iterand", rate="x"), r"rate must lie in \[0, 1\].*not 'x'"),
    "a settled share as text": (lambda: searched("frozen", pruned="x"), r"not 'x' and 0\.25"),
    "a temperature as text": (lambda: searched("concrete", temperature="x"), "must be above 0, not 'x'"),
    "a slack that is no number": (lambda: searched("concrete", slack=math.nan), "must be above 0, not nan"),
    "rounds as text": (lambda: pruned(rounds="3"), "whole numbers from 0 on, not '3', 0"),
    "half a round": (lambda: pruned(rounds=2.5), "whole numbers from 0 on, not 2.5, 0"),
    "a rate of pruning as text": (lambda: pruned(rate="0.2"), r"must lie in \[0, 1\).*not '0\.2'"),
    "a negative slope": (
        lambda: prune.by_criterion("large-init-large-final", ONES, ONES, {"a": 2}, alpha=-1),
        "alpha must be a positive number, not -1",
    ),
    "no rounds of SynFlow": (lambda: prune.synflow(network(), (8,), 10, rounds=0), "from 1 on, not 0"),
    "no weights of SynFlow": (
        lambda: prune.synflow(network(), (8,), 0),
        "from 1 to the 96 that there are, not 0",
    ),
    "more weights than there are": (
        lambda: masks.random_mask({"a": (4,)}, {"a": 7}, 0),
        "cannot keep 7 of them",
    ),
    "fewer weights than none": (
        lambda: masks.random_mask({"a": (4,)}, {"a": -1}, 0),
        "cannot keep -1 of them",
    ),
    "a training backwards": (lambda: trained(steps=2, start=5), "start at most steps, not 2 and 5"),
    "steps as text": (lambda: trained(steps="1"), "whole numbers of steps.*not '1' and 0"),
    "a negative norm": (lambda: trained(clip=-1), "must be above 0, not -1"),
    "an unknown precision": (
        lambda: sm.evaluate(network(), [(X, Y)], amp="fp8"),
        "amp must be one of none.*'fp8'",
    ),
    "a size as text": (lambda: load_data("digits", image_size="8"), "from 1 to 4096, not '8'"),
    "a share of images as text": (
        lambda: load_data("digits").split("0.1", seed=0),
        "val='0.1' of .* give a number",
    ),
    "a batch as text": (
        lambda: digits_loader(batch_size="8"),
        "batch_size is a whole number from 1 on, not '8'",
    ),
    "classes as text": (lambda: Selection(classes="cat"), r"not the text 'cat'; write \['cat'\]"),
    "axes as text": (
        lambda: sm.register_layer(nn.Identity, inputs="1"),
        "lists of axes such as .1., whole numbers",
    ),
    "a name without its module": (lambda: sm.register_layer("Linear", inputs=[1]), "package.module.Class"),
    # One kind of thing for another.
    "a DataLoader as batches": (
        lambda: trained(batches=torch.utils.data.DataLoader([(X[0], Y[0])])),
        "a function from the number of a step.*and no DataLoader",
    ),
    "a name as schedule": (
        lambda: trained(schedule="cosine"),
        r"Schedule\('cosine', steps\), and not 'cosine'",
    ),
    "a path as checkpoint": (lambda: trained(checkpoint="a"), r"such as Checkpoint\(path\), and not 'a'"),
    "a data set as images": (
        lambda: digits_loader("all"),
        "such as data.train of a data set, and no Dataset",
    ),
    "a list as example": (
        lambda: ticket().to_pt2("a.pt2", model=drawn(), example=[1]),
        "at least two inputs, not list",
    ),
}


def ticket() -> sm.Ticket:
    return searched().ticket()


def hold(mask) -> None:
    model = network()
    sm.hold(sgd(model), mask, model)


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_argument_is_refused_where_it_is_given(case):
    call, message = CASES[case]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_what_is_right_is_taken(tmp_path):
    """The other side of the checks: steps as NumPy numbers, a path as text, networks without parameters."""
    model = drawn()
    done = fit(
        model, sgd(model), lambda step: (X, Y), steps=np.int64(2), checkpoint=Checkpoint(str(tmp_path / "c"))
    )
    assert done.step == 2
    assert sm.evaluate(nn.Identity(), [(torch.eye(4), torch.arange(4))])["accuracy"] == 1.0
    assert masks.density({}) == 1.0 and masks.distance({}, {}) == 0.0


def adam(scores, lr):
    return torch.optim.Adam(scores, lr=lr)


RIGHT = {
    "a plan": lambda: searched("gem-miner").plan(np.int64(9), np.int64(3)),
    "a gain": lambda: sm.randomize_(network(), gain=np.float32(1.5)),
    "a density of the draw": lambda: sm.randomize_(network(), density=Fraction(1, 2)),
    "a penalty": lambda: searched("gem-miner", penalty=np.float32(0.1), period=Fraction(1, 2)),
    "a temperature": lambda: searched("concrete", temperature=np.float32(0.5)),
    "rounds": lambda: pruned(rounds=np.int64(1)),
    "a rate of pruning": lambda: prune.density_path([0.5], rate=Fraction(1, 5)),
    "a norm": lambda: trained(clip=np.float32(1)),
    "a norm without end": lambda: trained(clip=float("inf")),
    "a batch": lambda: digits_loader(batch_size=np.int64(8)),
    "a size": lambda: load_data("digits", image_size=np.int64(8)),
    "images": lambda: load_data("digits").split(np.int64(9), seed=0),
    "a fraction": lambda: Selection(per_class_fraction=np.float32(0.5), stored_size=np.int64(8)),
    "a learning rate": lambda: searched(lr=torch.tensor(0.1)),
    "a function that makes the rule": lambda: searched(base=adam),
    "a partial rule": lambda: searched(base=partial(torch.optim.SGD, momentum=0.9)),
}


@pytest.mark.parametrize("case", RIGHT)
def test_numbers_of_other_libraries_and_functions_are_taken(case):
    RIGHT[case]()


def test_a_gain_of_numpy_is_stored_in_the_ticket(tmp_path):
    model = sm.randomize_(network(), gain=np.float32(1.5))
    sm.EdgePopup(model, density=0.5, lr=0.1).ticket().save(tmp_path / "a.ticket")
    again = sm.Ticket.load(tmp_path / "a.ticket").apply(network())
    assert torch.equal(again[0].weight, model[0].weight)


def test_an_evaluation_that_fails_leaves_the_modes_of_the_modules():
    model = network()
    with pytest.raises(IndexError):
        sm.evaluate(model, [(X, Y + 99)])
    assert all(module.training for module in model.modules())


def test_files_are_named_by_what_was_asked_for(tmp_path, capsys):
    """Not by the temporary file that stands for them, and a folder is not said to be missing."""
    with pytest.raises(FileNotFoundError) as caught:
        ticket().save(tmp_path / "none" / "a.ticket")
    assert caught.value.filename == str(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="is a folder; name a file in it"):
        sm.load(tmp_path)
    assert main(["info", str(tmp_path)]) == 2
    assert "is a folder; name a file in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("search --device meta", "--device 'meta': take cpu or cuda: tensors there have no values"),
        ("theory --image-size 99999999", "--image-size 99999999: take at most 4096"),
    ],
)
def test_a_wrong_call_ends_before_anything_is_run(line, message, tmp_path, capsys):
    assert main([*line.split(), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
