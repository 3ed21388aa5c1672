"""The declared protocol of searches: one of one's own, and that nobody reaches around it."""

import ast
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import supermask as sm
from supermask.search import Search
from supermask.search.description import DESCRIPTIONS
from supermask.search.protocol import Algorithm
from supermask.weights import kinds
from supermask.weights.roles import classify

ROOT = Path(sm.__file__).parent


class Frugal(Search):
    """Raw scores that never fall below zero, with a counter of its own in the state."""

    method = "frugal"
    ranking = "raw"

    def prepare(self) -> None:
        self.projections = 0

    def score_gradients(
        self, grads: list[Tensor], weights: list[Tensor], scores: list[Tensor]
    ) -> list[Tensor]:
        return [grad * weight for grad, weight in zip(grads, weights, strict=True)]

    def advance(self) -> None:
        self.projections += 1
        for score in self.scores.values():
            score.clamp_(min=0.0)

    def get_extra_state(self) -> dict[str, int]:
        return {"projections": self.projections}

    def set_extra_state(self, state_dict) -> None:
        self.projections = state_dict["projections"]


def test_a_search_of_ones_own_needs_one_method_and_may_say_more():
    model = sm.randomize_(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)))
    search = Frugal(model, density=0.3, lr=0.1)
    for _ in range(4):
        search.zero_grad()
        model(torch.randn(9, 8)).square().sum().backward()
        search.step()
        assert all(float(score.min()) == 0 for score in search.scores.values())
    assert search.projections == 5 and search.ticket().strong
    twin = Frugal(
        sm.randomize_(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))), density=0.3, lr=0.1
    )
    twin.load_state_dict(search.state_dict())
    assert twin.projections == 5 and search.objective is None and search.further_metrics(lambda: 0.5) == {}


def test_what_an_algorithm_must_say_is_abstract():
    class Silent(Search):
        pass

    with pytest.raises(TypeError, match="score_gradients"):
        Silent(sm.randomize_(nn.Linear(4, 4)), density=0.5, lr=0.1)
    assert "score_gradients" in Algorithm.__abstractmethods__


def test_a_subclass_inherits_neither_the_fused_step_nor_that_a_graph_can_hold_it():
    class Changed(sm.EdgePopup):
        pass

    assert sm.EdgePopup.graphable and sm.EdgePopup.fused is not None
    assert not Changed.graphable and Changed.fused is None


def test_selecting_changes_nothing(small_net):
    for method, cls in sm.SEARCHES.items():
        search = cls(sm.randomize_(small_net, seed=0), density=0.4, lr=0.1)
        before = {name: value.clone() for p in search.state.values() for name, value in p.items()}
        first, second = search.select(), search.select()
        assert all(torch.equal(first[name], second[name]) for name in first), method
        after = {name: value for p in search.state.values() for name, value in p.items()}
        assert all(torch.equal(before[name], after[name]) for name in before), method


def test_the_page_on_searches_runs_and_names_every_member(monkeypatch, small_net, batch):
    from .test_search import train

    monkeypatch.setattr("supermask.search.registry.SEARCHES", dict(sm.SEARCHES))
    monkeypatch.setattr("supermask.search.registry._watchers", [])
    monkeypatch.setattr("supermask.search.description.DESCRIPTIONS", dict(DESCRIPTIONS))
    monkeypatch.setattr("supermask.weights.kinds._KINDS", dict(kinds._KINDS))
    text = (ROOT.parent / "docs" / "new-search.md").read_text()
    scope: dict = {"torch": torch}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, scope)
    search = scope["Nonnegative"](sm.randomize_(small_net, seed=0), density=0.5, lr=0.1)
    train(small_net, search, batch, 3)
    assert all(float(score.min()) == 0 for score in search.scores.values()) and search.graphable
    assert classify(scope["Experts"]())[0].fan_in == 16
    members = {name for name in vars(Algorithm) if not name.startswith("_")}
    assert [name for name in sorted(members) if name not in text] == []


ALGORITHMS = {cls.__name__ for cls in sm.SEARCHES.values()} | {"GatedSearch", "NoisySearch"}


def offences(path: Path) -> list[str]:
    """Places that ask which algorithm a search is, or reach for its private attributes."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        text = ast.unparse(node) if isinstance(node, ast.Call | ast.Compare | ast.Attribute) else ""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            asked = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
            if asked & ALGORITHMS:
                found.append(text)
        elif isinstance(node, ast.Compare) and "type(self) is" in text:
            found.append(text)
        elif isinstance(node, ast.Call) and text.startswith("vars(type("):
            found.append(text)
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = ast.unparse(node.value)
            if owner in ("search", "searches[0]", "optimizer", "self.search") and not node.attr.startswith(
                "_optimizer_"
            ):
                found.append(text)
    return [f"{path.relative_to(ROOT)}: {text}" for text in found]


def test_nobody_asks_which_algorithm_a_search_is_or_reaches_into_it():
    assert [line for path in sorted(ROOT.rglob("*.py")) for line in offences(path)] == []


def test_offences_are_found_where_there_are_some(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_search_protocol.ROOT", tmp_path)
    path = tmp_path / "bad.py"
    path.write_text("isinstance(s, Zhou)\ntype(self) is X\nvars(type(self))\nsearch._names\nsearch.fine\n")
    assert len(offences(path)) == 4
