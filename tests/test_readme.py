"""The README's code runs as it stands, its tables are those of the committed results, its links exist."""

import re
import runpy
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import supermask as sm
from supermask import ops
from supermask.io import read_json
from supermask.search.description import DESCRIPTIONS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
NEW_SEARCH = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "new-search.md").read_text(), re.DOTALL)


def batches(channels: int, size: int, count: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(4, channels, size, size), torch.randint(3, (4,))) for _ in range(count)]


def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {"loader": batches(3, 32), "steps": 3}
    exec(BLOCKS[0], scope)
    scope["model"].eval()
    images = scope["loader"][0][0]
    assert torch.equal(scope["network"](images), scope["model"](images))
    assert (tmp_path / "resnet18.ticket").stat().st_size < 1_500_000


def test_the_decision_table_prints(small_net, capsys):
    exec(BLOCKS[1], {"model": small_net})
    assert "hidden.weight" in capsys.readouterr().out


def test_imp_over_the_users_training_function(small_net, capsys):
    exec(BLOCKS[2], {"model": small_net, "loader": batches(1, 8), "sm": sm, "torch": torch, "F": F})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["0", "1", "2", "3"]


def test_the_new_search_algorithm_learns(small_net, batch, monkeypatch):
    from .test_search import train

    monkeypatch.setattr("supermask.search.registry.SEARCHES", dict(sm.SEARCHES))
    monkeypatch.setattr("supermask.search.registry._watchers", [])
    monkeypatch.setattr("supermask.search.description.DESCRIPTIONS", dict(DESCRIPTIONS))
    scope: dict = {}
    exec(NEW_SEARCH[0], scope)
    sm.randomize_(small_net, seed=0, density=0.5)
    search = scope["RawScore"](small_net, density=0.5, lr=0.1, momentum=0.9)
    losses = train(small_net, search, batch, 60)
    assert losses[-1] < 0.5 * losses[0]
    for name, score in search.scores.items():
        kept = search.mask[name]
        assert int(kept.sum()) == round(0.5 * kept.numel())
        assert score[kept].min() >= score[~kept].max()
    assert search.ticket().strong and search.ticket().provenance["method"] == "raw-score"


def test_there_are_no_other_code_blocks():
    assert len(BLOCKS) == 3 and len(NEW_SEARCH) == 3


def test_the_readme_can_be_read_in_one_sitting():
    assert len(TEXT.splitlines()) <= 180


PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_those_of_the_results(page, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tables = runpy.run_path(str(ROOT / "benchmarks" / "readme_tables.py"))
    text = (ROOT / page).read_text()
    assert tables["filled"](text) == text


def test_every_recipe_is_listed():
    text = (ROOT / "docs" / "recipes.md").read_text()
    for path in (ROOT / "recipes").glob("*/*.toml"):
        name = path.relative_to(ROOT / "recipes").with_suffix("").as_posix()
        listed = f"`{name.removeprefix('compare/')}`" in text or f"recipes/{name}.toml" in text
        assert listed, f"docs/recipes.md does not name {name}"


def test_loading_is_thrice_as_fast_as_torchvisions():
    """On Imagenette, with two workers and the same augmentation: what the committed measurement says."""
    rows = [row["speedup"] for path in (ROOT / "benchmarks" / "results").glob("*/loader.json")
            for row in read_json(path)["rows"] if row["data"] == "imagenette"]  # fmt: skip
    assert len(rows) >= 4
    assert all(row[f"{way}/files"] >= 3 for row in rows for way in ("resident", "mapped", "read ahead"))


def test_a_search_step_on_a_gpu_costs_a_fiftieth_more_at_most():
    found = [row for path in (ROOT / "benchmarks" / "results").glob("nvidia-*/training_step.json")
             for row in read_json(path)["rows"]]  # fmt: skip
    assert len(found) >= 3 and all(row["edge-popup/dense"] <= 1.02 for row in found)


def test_an_accelerated_search_step_costs_what_the_readme_says():
    measured = results("amd-epyc-zen4-2-cores/accelerated_step")
    rows, networks = measured["rows"], measured["networks"]
    wide = [row["accelerated/dense"] for row in rows if row["width"] >= 1024]
    assert len(wide) >= 6 and max(row["accelerated/dense"] for row in rows) <= 1.03
    said = f"take {min(wide):.2f} to\n{max(wide):.2f} of it"
    assert said in (ROOT / "README.md").read_text(encoding="utf-8")
    found = [row["accelerated/dense"] for row in networks if row["kind"] == "search"]
    assert f"ResNet-18 {min(found):.2f} to {max(found):.2f}" in TEXT


def test_a_search_without_a_rate_is_as_good_as_it_is_said_to_be():
    document = results("score-steps")
    found: dict[str, dict[tuple[str, float], float]] = {}
    for run in document["runs"]:
        found.setdefault(run["setting"], {})[run["step_size"], run["lr"]] = run["validation"] or 0.0
    behind, ahead, before = {}, {}, {}
    for setting, cells in found.items():
        own = cells["relative", document["default_rates"][setting]]
        behind[setting] = max(cells.values()) - own
        before[setting] = max(cells.values()) - cells["relative", 0.02]
        ahead[setting] = own - max(cells[key] for key in cells if key[0] == "absolute")
    near = [setting for setting, points in behind.items() if points <= 1.0]
    assert f"in {len(near)} of {len(found)} settings came within a\npoint of the best rate" in TEXT
    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8").replace("\n", " ")
    assert f"best of all rates and rules in {len(near)} of these {len(found)} settings" in text
    (far,) = behind.keys() - near
    assert far == "airbench, logits not scaled" and f"{behind[far]:.1f} points behind on airbench" in text
    assert f"is {before['ResNet-18, Imagenette']:.1f} points behind the best on ResNet-18" in text
    assert f"by {min(ahead.values()):.1f} to {max(ahead.values()):.1f} points" in text
    assert f"{before['ViT']:.0f} to {before['Conv-4']:.0f} points behind the best on a ViT" in text


def test_cifar10_is_as_the_readme_and_the_results_say():
    single = {row["method"]: 100 * row["mean"] for row in results("cifar10-airbench")["summary"]}
    many = {}
    for name in ("cifar10-airbench-parallel", "cifar10-airbench-parallel-mask"):
        (row,) = results(name)["summary"]
        assert len(results(name)["rows"]) == 3
        many[row["method"]] = 100 * row["mean"]
    signed, mask = "signed-supermask", "edge-popup"
    dense = single["dense"]
    assert f"the trained network has {dense:.1f} %" in TEXT
    assert f"a signed subnetwork\n{single[signed]:.1f} %, a mask alone {single[mask]:.1f} %" in TEXT
    assert f"with eight weights for each connection {many[signed]:.1f} % and {many[mask]:.1f} %" in TEXT
    texts = (ROOT / "docs/results.md").read_text(encoding="utf-8").replace("\n", " ")
    said = (
        f"{dense - many[signed]:.1f} points for the signed subnetwork and {dense - many[mask]:.1f} for a mask"
    )
    one = f"{dense - single[signed]:.1f} and {dense - single[mask]:.1f}"
    assert f"{said} alone; with one weight they are {one}" in texts


def test_a_tenth_of_the_weights_is_level_on_digits():
    rows = results("digits")["summary"]
    (dense,) = (row for row in rows if row["method"] == "dense")
    (tenth,) = (row for row in rows if (row["method"], row["density"]) == ("edge-popup", 0.1))
    assert tenth["n"] == 3 and abs(tenth["mean"] - dense["mean"]) < 0.001
    assert tenth["min"] <= dense["mean"] <= tenth["max"]


def test_what_is_said_of_trained_tickets_on_cifar10_holds():
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8").replace("\n", " ")
    trained = {(row["method"], row["density"]): row for row in results("cifar10-airbench-trained")["rows"]}
    (tenth,) = results("cifar10-airbench-parallel-tenth")["rows"]
    at = [tenth, trained["imp", 0.2], trained["imp", 0.1]]
    own, fifth, last = (
        (f"{100 * row['test_accuracy']:.1f} %", f"{row['ticket_bytes'] / 1000:.0f} kB") for row in at
    )
    said = (
        f"{own[0]} in {own[1]}, where IMP's tickets have {fifth[0]} in {fifth[1]} and {last[0]} in {last[1]},"
    )
    assert said in text
    assert [row["total_steps"] // tenth["steps"] for row in (trained["imp", 0.5], *at[1:])] == [2, 3, 4]
    seeds = {row["seed"]: row["test_accuracy"] for row in results("cifar10-airbench-parallel")["rows"]}
    assert abs(seeds[0] - trained["imp", 0.5]["test_accuracy"]) < 0.005
    assert {
        f"{100 * row['test_accuracy']:.1f}" for row in results("cifar10-airbench-parallel-16")["rows"]
    } == {"85.8"}
    assert len(results("cifar10-airbench-parallel-16")["rows"]) == 2


def test_what_is_said_of_gaps_holds():
    """Between means of the trained network and of an untrained subnetwork, in points."""

    def mean(name: str, method: str, density: float) -> float:
        (row,) = (r for r in results(name)["summary"] if (r["method"], r["density"]) == (method, density))
        return 100 * row["mean"]

    def gap(dense: str, name: str, method: str, density: float) -> str:
        return f"{mean(dense, 'dense', 1.0) - mean(name, method, density):.1f} points"

    mnist, pages = (
        "mnist-lenet-300-100",
        {
            name: (ROOT / name).read_text(encoding="utf-8").replace("\n", " ")
            for name in ("README.md", "docs/results.md")
        },
    )
    published, default = (
        gap(mnist, mnist, "edge-popup", 0.3),
        gap(mnist, "mnist-edge-popup", "edge-popup", 0.5),
    )
    assert f"{published} behind the trained network with 0.3 of the weights" in pages["README.md"]
    assert f"{default} with half of them" in pages["README.md"]
    five = gap("cifar10-airbench-5-epochs", "cifar10-airbench-parallel-5-epochs", "signed-supermask", 0.5)
    assert f"the gap is {five}, on three seeds" in pages["docs/results.md"]
    imagenette = gap(
        "imagenette-resnet-18d-5-epochs", "imagenette-parallel-5-epochs", "signed-supermask", 0.5
    )
    assert f"the subnetwork is {imagenette} behind" in pages["docs/results.md"]
    untrained = mean("imagenette-parallel-5-epochs", "signed-supermask", 0.5)
    trained = mean("imagenette-resnet-18d-5-epochs", "dense", 1.0)
    said = f"{untrained:.1f} % untrained, signs decided, and {trained:.1f} % trained"
    assert said in pages["README.md"] and trained - untrained < 0.5


def test_masks_of_tickets_take_what_is_said_of_them():
    (path,) = (ROOT / "benchmarks" / "results").glob("*/ticket_coding.json")
    rows = {row["density"]: row for row in read_json(path)["rows"]}
    bits = {density: row["bits_per_weight"] for density, row in rows.items()}
    assert bits[0.1] <= 0.48 and bits[0.3] <= 0.89 and bits[0.5] > 1  # where a ticket keeps plain bits
    assert all(row["weights"] == 10_000_000 and row["decode"]["median_ms"] < 500 for row in rows.values())
    said = f"{bits[0.1]:.2f} at density 0.1, {bits[0.3]:.2f} at 0.3"
    assert said in (ROOT / "docs" / "ticket-format.md").read_text(encoding="utf-8")
    said = f"At density 0.1 it takes {bits[0.1]:.2f} bits a weight and at 0.3 {bits[0.3]:.2f}"
    assert said in ops.encode_mask.__doc__


def results(name):
    return read_json(ROOT / "benchmarks" / "results" / f"{name}.json")


def test_published_claims_hold_in_the_committed_results():
    """What the pages say beside their tables."""
    rows = results("stability/mnist-lenet-300-100")["stability"]
    assert all(row["mean"] < 0.02 for row in rows)  # LeNet is stable from step 0 on
    (first,) = (row for row in results("stability/cifar10-resnet-20")["stability"] if row["step"] == 0)
    assert first["mean"] > 0.1  # ResNet-20 is not
    lenet = {(r["method"], r["density"]): r["mean"] for r in results("mnist-lenet-300-100")["summary"]}
    gaps = {d: 100 * (lenet["dense", 1.0] - lenet["edge-popup", d]) for d in (0.5, 0.3)}
    assert round(gaps[0.5], 1) == 0.5 and round(gaps[0.3], 1) == 0.3
    assert all(100 * (lenet["dense", 1.0] - mean) < 0.1 for (m, _), mean in lenet.items() if m == "imp")
    means = {(row["method"], row["density"]): row["mean"] for row in results("mnist-searches")["summary"]}
    assert means["zhou", 0.8] >= 0.965
    assert means["signed-supermask", 0.3] > means["edge-popup", 0.3]
    sparse = {(r["method"], r["density"]): r["mean"] for r in results("mnist-searches-sparse")["summary"]}
    assert means["gem-miner", 0.3] > sparse["edge-popup", 0.02]  # it keeps 0.0195
    assert sparse["signed-supermask", 0.02] > means["gem-miner", 0.3]
    gem = {row["density"]: row["mean"] for row in results("mnist-gem-miner")["summary"]}
    assert gem[0.02] > gem[0.3] == means["gem-miner", 0.3]
    assert (
        sparse["iterand", 0.3] >= sparse["edge-popup", 0.3]
        and sparse["biprop", 0.3] >= sparse["edge-popup", 0.3]
    )
    rounds = {(row["method"], row["density"]): row["mean"] for row in results("imp/mnist-rounds")["summary"]}
    assert all(mean > rounds["dense", 1.0] for (m, d), mean in rounds.items() if m == "imp" and d > 0.025)
    increase = {
        row["density"]: row["mean"] for row in results("imp/mnist-rounds-magnitude-increase")["summary"]
    }
    assert all(mean > rounds["imp", d] for d, mean in increase.items() if d < 1)
    assert all(rounds["reinit", d] < mean for (m, d), mean in rounds.items() if m == "imp" and d < 0.7)


def test_what_is_said_of_slot_machines_holds():
    runs = {(row["method"], row["seed"]): row for row in results("mnist-slots")["rows"]}
    pairs = [(runs["dense", seed], runs["slot-machine", seed]) for seed in (3, 4, 5)]
    gaps = [100 * (dense["test_accuracy"] - slots["test_accuracy"]) for dense, slots in pairs]
    assert min(gaps) > 0 and round(sum(gaps) / 3, 2) == 0.13
    assert all(9 < dense["ticket_bytes"] / slots["ticket_bytes"] < 11 for dense, slots in pairs)


def test_what_is_said_of_filters_and_of_folded_networks_holds():
    rows = results("cifar10-resnet-20")["rows"]
    assert all(row["drawn_at"] == row["steps"] // 2 for row in rows if row["method"] == "early-bird-channels")
    means = {row["method"]: row["mean"] for row in results("cifar10-resnet-20")["summary"]}
    assert max(means, key=means.__getitem__) == "filters-l1"
    for row in results("shrunk/cifar10-resnet-20")["rows"]:
        assert row["other_predictions"] == 0 and row["small"]["macs"] < 0.51 * row["masked"]["macs"]
    sizes = [
        next(row["ticket_bytes"] for row in results(name)["rows"] if row["method"] == "edge-popup")
        for name in ("cifar10-resnet-20", "cifar10-folded-resnet-20")
    ]
    assert 0.6 < sizes[1] / sizes[0] < 0.9


def test_every_method_on_digits_takes_less_than_ten_minutes():
    assert sum(row["seconds"] for row in results("digits-all")["rows"]) / 2 < 600  # on two cores


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target
