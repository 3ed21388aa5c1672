"""What a mask looks like: counts by hand, and the command on a small network."""

import json
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from supermask.analysis import masks as anatomy
from supermask.cli import main
from supermask.masks import random_mask
from supermask.report import headline, write_report


def test_paths_are_counted_and_dead_weights_found():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    first = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 0, 1]]).bool()
    second = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    works, paths = anatomy.effective(model, {"0.weight": first, "2.weight": second}, (3,))
    # Unit 0 has two ways in and two out; unit 1 has none in, unit 2 none out.
    assert works["0.weight"].tolist() == [[True, True, False], [False] * 3, [False] * 3]
    assert works["2.weight"].tolist() == [[True, False, False], [True, False, False]]
    assert paths == pytest.approx(math.log10(4))
    # A layer without a mask is dense: from the two units that are reached, four ways on.
    assert anatomy.effective(model, {"0.weight": first}, (3,))[1] == pytest.approx(math.log10(6))
    nothing = {"0.weight": first, "2.weight": torch.zeros_like(second)}
    assert anatomy.effective(model, nothing, (3,))[1] == -math.inf


def test_paths_go_round_in_residual_and_normalized_networks():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 2, 3, padding=1)
            self.norm = nn.BatchNorm2d(2)
            self.block = nn.Conv2d(2, 2, 3, padding=1)
            self.head = nn.Linear(2, 2)

        def forward(self, x):
            x = self.norm(self.stem(x)).relu()
            return self.head((x + self.block(x)).amax((2, 3)))

    mask = {
        "stem.weight": torch.ones(2, 1, 3, 3).bool(),
        "block.weight": torch.zeros(2, 2, 3, 3).bool(),
        "head.weight": torch.ones(2, 2).bool(),
    }
    works, paths = anatomy.effective(Residual(), mask, (1, 5, 5))
    assert works["stem.weight"].all() and works["head.weight"].all() and not works["block.weight"].any()
    assert paths > 0


class Pooled(nn.Module):
    """Convolutions behind which a maximum is taken of few pixels, in one of the ways of torch."""

    def __init__(self, pool: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)
        self.head, self.pool = nn.Linear(3, 2), pool

    def forward(self, x):
        return self.head(self.pool(self.second(self.first(x).relu()).relu()).flatten(1))


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        lambda x: nn.functional.max_pool2d(x, (2, 2), stride=1),
        lambda x: torch.max_pool2d(x, 2),
        nn.AdaptiveMaxPool2d(1),
        lambda x: x.amax((2, 3)),
        lambda x: x.flatten(2).max(2).values,
        lambda x: torch.maximum(x.flatten(2)[..., :2], x.flatten(2)[..., 2:]).max(dim=-1)[0],
    ],
)
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_a_maximum_has_a_path_for_every_input(pool, density):
    torch.manual_seed(0)
    model = Pooled(pool)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.dim() > 1}
    mask = random_mask(shapes, {name: round(density * math.prod(shape)) for name, shape in shapes.items()}, 1)
    works, _ = anatomy.effective(model, mask, (1, 2, 2))
    # What can change the output for some weights and image does so for one of many that are drawn.
    found = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()}
    weights = dict(model.named_parameters())
    for _ in range(150):
        for name, weight in weights.items():
            weight.data = torch.rand(weight.shape) * mask.get(name, torch.tensor(0.0))
        slopes = torch.autograd.grad(model(torch.rand(1, 1, 2, 2)).sum(), [weights[name] for name in shapes])
        for name, slope in zip(shapes, slopes, strict=True):
            found[name] |= (slope != 0) & mask[name]
    assert all(torch.equal(works[name], found[name]) for name in shapes)


def test_vanished_units_and_kernels_are_counted():
    linear = torch.tensor([[1, 0], [0, 0], [0, 0]]).bool()
    convolution = torch.zeros(2, 3, 3, 3).bool()
    convolution[0, 1, 2, 2] = convolution[0, 2] = True
    assert anatomy.vanished({"a": linear, "b": convolution}) == {
        "a": {"units": 2, "unit_count": 3},
        "b": {"units": 1, "unit_count": 2, "kernels": 4, "kernel_count": 6},
    }


@given(st.integers(0, 1000), st.integers(1, 99), st.integers(1, 99))
def test_overlap_is_jaccard_of_the_sets(seed, ours, theirs):
    shapes = {"a": (10, 10)}
    a, b = random_mask(shapes, {"a": ours}, seed), random_mask(shapes, {"a": theirs}, seed + 1)
    sets = [set(m["a"].flatten().nonzero().flatten().tolist()) for m in (a, b)]
    share, chance = anatomy.overlap(a, b)
    assert share == pytest.approx(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    shared = ours * theirs / 100
    assert chance == pytest.approx(shared / (ours + theirs - shared))
    assert anatomy.overlap(a, a)[0] == 1.0


def test_masks_of_other_layers_are_refused():
    with pytest.raises(ValueError, match="do not have the same layers"):
        anatomy.overlap({"a": torch.ones(2)}, {"b": torch.ones(2)})


def test_the_command_looks_at_every_mask(tmp_path):
    flags = ["--epochs", "1", "--seeds", "0", "1", "--densities", "0.3", "--jobs", "1"]
    call = ["anatomy", "--methods", "edge-popup", "one-shot", *flags, "--out", str(tmp_path)]
    assert main(call) == 0
    document = json.loads((tmp_path / "results.json").read_text())
    assert {(e["method"], e["seed"]) for e in document["layers"]} == {
        (method, seed) for method in ("edge-popup", "one-shot") for seed in (0, 1)
    }
    for entry in document["layers"]:
        assert entry["layer_density"] == pytest.approx(0.3, abs=0.01) and 0 < entry["effective"] <= 1
    pairs = {(e["first"], e["second"], e["same_seed"]): e["n"] for e in document["overlaps"]}
    assert pairs["edge-popup", "one-shot", True] == 2 and pairs["one-shot", "one-shot", False] == 1
    moves = [e for e in document["distances"] if e["seed"] == 0]
    assert moves[0]["from_first"] == 0 == moves[-1]["from_last"] and moves[-1]["from_first"] > 0
    assert moves[0]["step"] == 0 and {e["method"] for e in document["distances"]} == {"edge-popup"}
    page = (tmp_path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert headline(document).replace(">", "&gt;") in page
    assert main([*call[:1], "--methods", "dense", *flags, "--out", str(tmp_path / "dense")]) == 2


def test_masks_of_norms_alone_have_a_page(tmp_path):
    nothing = {"layers": [], "overlaps": [], "distances": []}
    document = {
        "schema": "supermask/anatomy/1",
        "config": {"model": "resnet-20", "data": "digits"},
        **nothing,
    }
    document["skipped"] = [{"method": "grasp", "reason": "of a reason"}]
    page = write_report(document, tmp_path).read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    assert (
        headline(document).startswith("None of these methods has a mask") and headline(document)[:40] in page
    )
    assert "Left out is GraSP: of a reason." in page and "Density by layer" not in page


def test_masks_of_norms_are_left_out_and_those_beside_tickets_are_not(tmp_path):
    methods = ["--methods", "zhou", "one-shot", "pruned-at-final", "early-bird-channels"]
    task = ["--model", "resnet-20", "--model-args", "width=0.25", "--epochs", "1", "--seeds", "0"]
    out = ["--densities", "0.5", "--jobs", "1", "--threads", "1", "--out", str(tmp_path)]
    assert main(["anatomy", *methods, *task, *out]) == 0
    document = json.loads((tmp_path / "results.json").read_text())
    assert {entry["method"] for entry in document["layers"]} == {"zhou", "one-shot", "pruned-at-final"}
    # Between two looks the most likely mask moves little; two draws would differ in every second weight.
    assert max(entry["from_before"] for entry in document["distances"]) < 0.2
