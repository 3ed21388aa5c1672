"""The verdict on the untrained subnetwork: what the seeds say, and when they say nothing."""

import pytest

from supermask.report import headline, write_report
from supermask.report.figures.training_cost import draw_training_cost, has_unequal_costs
from supermask.report.results import Results
from supermask.report.results.rows import summary_rows
from supermask.report.results.verdict import nothing_learned
from tests.test_report import STEPS, make_document


def with_gaps(*gaps: float, steps: float = 1.0) -> dict:
    """A comparison in which edge-popup is `gaps` above the dense network, seed by seed."""
    document = make_document(methods=("dense", "edge-popup"), densities=(0.5,), seeds=tuple(range(len(gaps))))
    dense = {row["seed"]: row["test_accuracy"] for row in document["rows"] if row["method"] == "dense"}
    for row in document["rows"]:
        if row["method"] == "edge-popup":
            row["test_accuracy"] = dense[row["seed"]] + gaps[row["seed"]]
            row["total_steps"] = steps * row["total_steps"]
    return document


@pytest.mark.parametrize(
    ("gaps", "steps", "sentence"),
    [
        (
            (-0.01, -0.02, -0.03),
            1,
            "2.0 points below (−3.0 to −1.0 over 3 seeds) after as many steps: it does not",
        ),
        (
            (0.01, 0.02, 0.03),
            2,
            "2.0 points above (+1.0 to +3.0 over 3 seeds) after 2 times the steps: it surp",
        ),
        (
            (-0.01, 0.0, 0.004),
            1,
            "0.2 points below (−1.0 to +0.4 over 3 seeds) after as many steps: these seeds",
        ),
        ((0.0,), 1, "level with it, on one seed after as many steps; one seed is too few"),
        (
            (-0.01, 0.0, 0.01),
            1,
            "level with it (−1.0 to +1.0 over 3 seeds) after as many steps: these seeds cannot tell",
        ),
        ((-0.05,), 1, "5.0 points below, on one seed after as many steps; one seed is too few to say"),
        (
            (-0.05, -0.04),
            1,
            "4.5 points below (−5.0 to −4.0 over 2 seeds) after as many steps; two seeds are",
        ),
    ],
)
def test_the_gap_is_said_seed_by_seed_and_decided_only_where_they_agree(gaps, steps, sentence):
    assert f"The untrained subnetwork ends {sentence}" in headline(with_gaps(*gaps, steps=steps))


def test_seeds_that_only_one_of_them_has_do_not_count():
    document = with_gaps(-0.01, -0.03, -0.02)
    document["rows"] = [r for r in document["rows"] if (r["method"], r["seed"]) != ("dense", 1)]
    assert "1.5 points below (−2.0 to −1.0 over 2 seeds)" in headline(document)


def test_where_nothing_was_learned_nothing_is_compared():
    document = make_document()
    for entry in document["summary"]:
        entry["mean"] = 0.12 if entry["method"] != "random-mask-frozen" else 0.10
    assert nothing_learned(summary_rows(document))
    text = headline(document)
    assert "hardly above a network in which nothing is trained" in text and "points below" not in text
    assert not nothing_learned(summary_rows(make_document()))
    assert not nothing_learned(summary_rows(make_document(methods=("dense", "edge-popup"))))


def test_methods_are_compared_at_one_density():
    document = make_document(methods=("dense", "edge-popup", "imp"))
    for row in document["rows"]:
        if row["method"] == "edge-popup" and row["density"] == 0.3:
            row["val_accuracy"] = 0.999
        if row["method"] == "imp" and row["density"] == 0.1:
            row["val_accuracy"] = 0.999
    text = headline(document)
    assert "subnetwork at density 0.3" in text and "IMP at density 0.3 reaches 98.1 %" in text


def test_a_page_shows_what_methods_cost_where_they_cost_unequally(tmp_path):
    document = make_document(methods=("dense", "edge-popup", "imp"), densities=(0.5,))
    results = Results(document)  # IMP took six times the steps of the others
    assert has_unequal_costs(results)
    drawing = draw_training_cost(results)
    assert f"IMP at density 0.5 with {6 * STEPS:,} steps" in drawing.alt
    assert "What it cost" in write_report(document, tmp_path).read_text()
    assert (tmp_path / "training-cost.png").exists()
    equal = make_document(methods=("dense", "edge-popup", "random-mask-frozen"), densities=(0.5,))
    assert not has_unequal_costs(Results(equal))
    write_report(equal, tmp_path)
    assert not (tmp_path / "training-cost.png").exists()


def test_losses_that_are_zero_have_a_curve_all_the_same(tmp_path):
    document = make_document(methods=("dense",), validation=False)
    for curve in document["curves"]:  # as of a data set with one class
        for point in curve["points"]:
            point["train_loss"] = 0.0
    assert "training loss" in write_report(document, tmp_path).read_text(encoding="utf-8")
