"""Searches beside edge-popup, judged seed by seed."""

from typing import Any

import pytest

from supermask.report import write_report
from supermask.report.results import Results

ACCURACIES = {
    ("edge-popup", 0.3): (0.90, 0.91, 0.92),
    ("edge-popup", 0.02): (0.70, 0.71, 0.72),
    ("biprop", 0.3): (0.91, 0.92, 0.93),
    ("iterand", 0.3): (0.91, 0.90, 0.93),
    ("frozen", 0.3): (0.89, 0.90, 0.91),
    ("gem-miner", 0.3): (0.80, 0.81, 0.82),
    ("zhou", 0.3): (0.95, 0.95, 0.95),
}
KEPT = {"gem-miner": 0.021, "zhou": 0.6}


def document(methods: tuple[str, ...], seeds: int = 3) -> dict[str, Any]:
    rows, summary = [], []
    for (method, density), accuracies in ACCURACIES.items():
        if method not in methods:
            continue
        values = accuracies[:seeds]
        for seed, accuracy in enumerate(values):
            kept = KEPT.get(method, density)
            row = {"method": method, "density": density, "kept_density": kept, "seed": seed}
            rows.append(row | {"test_accuracy": accuracy})
        mean = sum(values) / seeds
        entry = {"method": method, "density": density, "n": seeds, "mean": mean}
        summary.append(entry | {"min": min(values), "max": max(values)})
    return {"schema": "supermask/compare/1", "rows": rows, "summary": summary}


def verdicts(made: dict[str, Any]) -> dict[str, tuple[float, str]]:
    return {pair.row.method.name: (pair.other.density, pair.verdict) for pair in Results(made).pairs}


def test_a_search_stands_beside_edge_popup_at_its_density():
    everything = tuple(method for method, _ in ACCURACIES)
    assert verdicts(document(everything)) == {
        "biprop": (0.3, "ahead on every seed"),
        "iterand": (0.3, "ahead on some seeds"),
        "frozen": (0.3, "behind on every seed"),
        "gem-miner": (0.02, "ahead on every seed"),
        "zhou": (0.3, "at another density"),
    }
    iterand = next(p for p in Results(document(everything)).pairs if p.row.method.name == "iterand")
    assert iterand.ahead == 2
    assert iterand.mean == pytest.approx((0.01 - 0.01 + 0.01) / 3)


def test_ahead_on_some_seeds_is_ahead_on_one_at_least(monkeypatch):
    # Twice behind and once level; then level on all, and once ahead.
    for accuracies, verdict in (
        ((0.89, 0.91, 0.90), "ahead on no seed"),
        ((0.90, 0.91, 0.92), "ahead on no seed"),
        ((0.90, 0.92, 0.92), "ahead on some seeds"),
    ):
        monkeypatch.setitem(ACCURACIES, ("biprop", 0.3), accuracies)
        assert verdicts(document(("edge-popup", "biprop"))) == {"biprop": (0.3, verdict)}


def test_few_seeds_give_no_verdict():
    assert verdicts(document(("edge-popup", "biprop"), seeds=2)) == {"biprop": (0.3, "too few seeds to say")}


@pytest.mark.parametrize("methods", [("edge-popup",), ("biprop", "frozen")])
def test_one_alone_has_no_pair(methods):
    assert Results(document(methods)).pairs == []


def test_the_page_says_it(tmp_path):
    page = write_report(document(("edge-popup", "biprop", "frozen")), tmp_path).read_text(encoding="utf-8")
    assert "ahead on every seed" in page and "behind on every seed" in page
