"""The report of many methods: every method has a look and a word, and the page stays readable."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from supermask.experiments.compare.methods import METHODS
from supermask.report import headline, summary_table, write_report
from supermask.report.figures import draw_figures
from supermask.report.figures.drawing import Drawing
from supermask.report.methods.catalogue import LONGEST_LABEL, methods_of
from supermask.report.methods.method import GROUPS, TOGETHER
from supermask.report.methods.palette import DARK
from supermask.report.pages import comparison
from supermask.report.results import Results
from supermask.report.results.best import best_of
from supermask.report.results.rows import summary_rows
from supermask.search import SEARCHES
from supermask.search.description import DESCRIPTIONS, Description
from tests.test_report import DENSE_BYTES, Page, make_document

FINE_TUNED = ("edge-popup-fine-tuned", "gem-miner-fine-tuned")
MANY = tuple(dict.fromkeys([*METHODS, *FINE_TUNED]))
EVERY = MANY


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """Every method at two densities; Gem-Miner keeps less than it is asked for, and one is left out."""
    made = make_document(methods=MANY, densities=(0.3, 0.1), seeds=(0, 1))
    for row in made["rows"]:
        if row["method"] == "gem-miner-fine-tuned":
            row["kept_density"] = row["density"] * (0.7 + 0.1 * row["seed"])
    return made | {"skipped": [{"method": "early-bird-channels", "reason": "no norm <at all>"}]}


@pytest.fixture(scope="module")
def drawn(
    document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Drawing]]:
    """The page, and the figures that were drawn for it: many methods take long, and are drawn once."""
    found: dict[str, Drawing] = {}

    def draw(results: Results) -> dict[str, Drawing]:
        found.update(draw_figures(results))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "draw_figures", draw)
        return write_report(document, tmp_path_factory.mktemp("many")), found


@pytest.fixture(scope="module")
def report(drawn: tuple[Path, dict[str, Drawing]]) -> tuple[Path, str]:
    return drawn[0], drawn[0].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def drawings(drawn: tuple[Path, dict[str, Drawing]]) -> dict[str, Drawing]:
    return drawn[1]


# The catalogue.


def test_every_method_of_compare_is_described() -> None:
    methods = methods_of(EVERY)
    assert {name for name, method in methods.items() if method.group == "other"} == set()
    assert all(method.about.endswith(".") and method.about != "." for method in methods.values())
    assert all(len(method.label) <= LONGEST_LABEL for method in methods.values())
    assert len({method.label for method in methods.values()}) == len(EVERY)
    assert all(method.colour in DARK for method in methods.values())
    assert set(METHODS) <= set(DESCRIPTIONS)
    held = {name for name, method in methods.items() if method.holds_pruned and name in METHODS}
    assert held == {"pruned-at-final", "pruned-at-init", "pruned-at-init-unless-shrunk"}


def test_searches_are_strong_tickets() -> None:
    assert {methods_of([name])[name].group for name in SEARCHES} == {"strong"}


def test_looks_can_be_told_apart() -> None:
    methods = methods_of([*EVERY, *(f"unlisted-{number}" for number in range(20))]).values()
    looks = [(method.colour, method.marker, str(method.dash)) for method in methods]
    assert len(set(looks)) == len(looks)
    for one, other in combinations(methods, 2):
        if one.group == other.group and one.colour == other.colour:
            # Of one colour are only a method and its variants, which differ in dashes, or unlisted ones.
            assert one.group == "other" or one.dash != other.dash, (one.name, other.name)


def test_variants_follow_the_method_they_vary() -> None:
    names = ["zhou-fine-tuned", "edge-popup-fine-tuned", "movement-same-sign", "movement", "small-final"]
    methods = methods_of([*names, "zhou", "edge-popup", "large-final-diff-sign"])
    assert list(methods) == [
        "edge-popup",
        "zhou",
        "edge-popup-fine-tuned",
        "zhou-fine-tuned",
        "large-final-diff-sign",
        "small-final",
        "movement",
        "movement-same-sign",
    ]
    assert methods["zhou-fine-tuned"].colour == methods["zhou"].colour
    assert methods["zhou-fine-tuned"].group == "fine-tuned" and methods["zhou-fine-tuned"].is_trained
    assert not methods["zhou"].is_trained and methods["zhou"].is_ticket
    assert "same-sign" not in methods["movement-same-sign"].label


def test_a_variant_of_a_search_of_ones_own_looks_like_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, description in {
        "brand-new": {"group": "strong", "about": "New.", "colour": "red", "marker": "H"},
        "brand-new-fine-tuned": {"group": "fine-tuned", "variant_of": "brand-new", "dash": (0, (7, 1.5))},
    }.items():
        monkeypatch.setitem(DESCRIPTIONS, name, Description(label=name, **description))
    methods = methods_of(["brand-new-fine-tuned", "brand-new", "strange-fine-tuned"])
    assert [method.group for method in methods.values()] == ["strong", "fine-tuned", "other"]
    first, second, _ = methods.values()
    assert (first.colour, first.marker) == (second.colour, second.marker) and first.dash != second.dash


@pytest.mark.parametrize(("field", "value"), [("group", "best"), ("colour", "mauve")])
def test_a_group_or_colour_that_there_is_none_of_is_refused(
    field: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        DESCRIPTIONS, "mine", Description(**{"group": "strong", "colour": "red", field: value})
    )
    with pytest.raises(ValueError, match=f"'mine' .*'{value}'; take one of"):
        methods_of(["mine"])


# The page.


def test_page_opens_with_the_best_of_each_group(document: dict[str, Any], report: tuple[Path, str]) -> None:
    page = Page(report[1])
    groups = {methods_of([name])[name].group for name in MANY}
    opened = [attributes for tag, attributes in page.tags if tag == "details"]
    assert [attributes.get("class") for attributes in opened].count("group") == len(groups)
    assert all("open" not in attributes for attributes in opened if attributes.get("class") == "group")
    assert report[1].index('class="best"') < report[1].index('class="group"')
    for line in summary_table(document):
        assert line["test accuracy %"] in page.text
    assert headline(document) in page.text.replace("\N{NO-BREAK SPACE}", " ")
    ids = list(page.attributes("id"))
    assert len(ids) == len(set(ids))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("caption") == tags.count("table")


def test_best_is_chosen_on_validation_and_shown_on_test() -> None:
    made = make_document(methods=("dense", "imp", "one-shot", "reinit"), densities=(0.3, 0.1), seeds=(0,))
    for row in made["rows"]:  # on test, IMP is better at both densities
        if row["density"] == 0.1:
            row["val_accuracy"] = 0.99 if row["method"] == "one-shot" else 0.5
    best = best_of(summary_rows(made))
    assert best is not None and best.dense is not None and best.densities == [0.3, 0.1]
    found = best.groups[GROUPS["trained"]]
    assert [row.method.name for row in found if row] == ["imp", "one-shot"]
    assert [row.mean for row in found if row] == [0.979, 0.977]
    assert list(best.groups) == [GROUPS["trained"], GROUPS["control"]]
    assert best_of(summary_rows(make_document(validation=False))) is None


def test_best_leaves_a_gap_where_a_group_has_no_ticket() -> None:
    made = make_document(methods=("imp",), densities=(0.3,), seeds=(0,))
    others = make_document(methods=("edge-popup",), densities=(0.1,), seeds=(0,))
    made = made | {key: made[key] + others[key] for key in ("rows", "summary", "curves")}
    best = best_of(summary_rows(made))
    assert best is not None and best.dense is None
    assert [row is None for row in best.groups[GROUPS["strong"]]] == [True, False]


def test_without_validation_there_is_no_best_table(tmp_path: Path) -> None:
    made = make_document(methods=MANY, densities=(0.3,), seeds=(0,), validation=False) | {"curves": []}
    html = write_report(made, tmp_path).read_text(encoding="utf-8")
    assert '<details class="group">' in html and 'class="best"' not in html


def test_methods_left_out_stand_on_the_page_with_the_reason(report: tuple[Path, str]) -> None:
    assert "early-bird-channels: no norm <at all>" in Page(report[1]).text
    assert "it does not apply here" in Page(report[1]).text


def test_page_says_that_held_weights_are_not_gone(report: tuple[Path, str]) -> None:
    assert "In pruned at final values, pruned at initial values, initial unless shrunk, pruned" in report[1]


def test_page_says_which_early_birds_were_drawn_by_force(tmp_path: Path) -> None:
    made = make_document(methods=("dense", "early-bird"), densities=(0.3, 0.1), seeds=(0, 1))
    tickets = [row for row in made["rows"] if row["method"] == "early-bird"]
    for row, by in zip(tickets, ("patience", "patience", "agreement", "patience"), strict=True):
        row["drawn_by"] = by
    page = Page(write_report(made, tmp_path).read_text(encoding="utf-8"))
    assert "Of early bird, 3 of 4 tickets were drawn because half of the training was over" in page.text
    for row in tickets:
        row["drawn_by"] = "agreement"
    page = Page(write_report(made, tmp_path).read_text(encoding="utf-8"))
    assert "half of the training" not in page.text


# Densities that emerge.


def emerged(kept: float, method: str = "gem-miner") -> dict[str, Any]:
    made = make_document(methods=("dense", method), densities=(0.3,), seeds=(0, 1))
    for row in made["rows"]:
        if row["method"] == method:
            row["kept_density"] = kept + 0.01 * row["seed"]
    return made


def test_a_density_that_emerged_is_shown_as_it_is(tmp_path: Path) -> None:
    made = emerged(0.2)
    line = summary_rows(made)[1]
    assert line.emerged and line.true_density == pytest.approx(0.205) and line.density == 0.3
    assert summary_table(made)[1]["density"] == "0.3 (kept 0.205)"
    assert "at density 0.205" in headline(emerged(0.2, "edge-popup"))
    html = write_report(made, tmp_path).read_text(encoding="utf-8")
    assert "0.3 <small>(kept 0.205)</small>" in html and "Kept: the density that came out" in html
    assert "the point stands at that one" in html


def test_rounding_of_counts_is_not_another_density(tmp_path: Path) -> None:
    made = make_document(methods=("dense", "imp"), densities=(0.3,), seeds=(0,))
    for row in made["rows"]:
        row["kept_density"] = row["density"] * 0.995
    assert summary_rows(made)[1].true_density == 0.3
    assert summary_table(made)[1]["density"] == "0.3"
    assert "kept" not in draw_figures(Results(made))["accuracy-density"].caption
    del made["rows"][1]["kept_density"]  # results of earlier versions
    assert summary_rows(made)[1].true_density == 0.3


# The figures.


def titles(svg: str) -> Iterator[str]:
    return (title for title in GROUPS.values() if f">{title}" in svg)


def test_many_methods_stand_in_a_panel_per_group(
    drawings: dict[str, Drawing], report: tuple[Path, str]
) -> None:
    groups = dict.fromkeys(method.group for method in methods_of(MANY).values() if method.group != "dense")
    for name in ("accuracy-density", "learning-curves"):
        assert list(titles(drawings[name].svg)) == [GROUPS[group] for group in groups]
        assert "A panel for each group of methods" in drawings[name].caption
        # The dense network is named in each panel, and every other method in one.
        assert drawings[name].svg.count(">dense<") == len(groups)
    assert all(f">{method.label}" in drawings["accuracy-density"].svg for method in methods_of(MANY).values())
    assert "at density 0.1 against the step" in drawings["learning-curves"].caption
    with Image.open(report[0].parent / "accuracy-density.png") as image:
        assert image.width == round(7.2 * 300) and image.height < 11 * 300  # a page of a paper holds it


def test_ten_methods_still_stand_together() -> None:
    names = MANY[: TOGETHER + 1]
    few = make_document(methods=names[:TOGETHER], densities=(0.3,), seeds=(0,)) | {"curves": []}
    assert not list(titles(draw_figures(Results(few))["accuracy-density"].svg))
    more = make_document(methods=names, densities=(0.3,), seeds=(0,)) | {"curves": []}
    assert list(titles(draw_figures(Results(more))["accuracy-density"].svg))


def test_sizes_of_many_methods_are_medians_of_their_group(drawings: dict[str, Drawing]) -> None:
    svg = drawings["ticket-size"].svg
    size = 34_000 + round(DENSE_BYTES * 0.3)  # of every trained ticket at density 0.3: 353932 bytes
    assert size == 353_932 and ">354 kB<" in svg
    trained = {methods_of([name])[name].group for name in MANY} - {"dense", "strong", "control"}
    assert svg.count(">354 kB<") == len(trained)


def test_a_group_at_the_bottom_shows_its_whole_range() -> None:
    made = make_document(methods=MANY, densities=(0.3,), seeds=(0,)) | {"curves": []}
    for entry in (*made["rows"], *made["summary"]):
        if methods_of([entry["method"]])[entry["method"]].group == "control":
            for key in ("test_accuracy", "mean", "min", "max"):
                entry[key] = 0.1
    drawing = draw_figures(Results(made))["accuracy-density"]
    assert drawing.svg.count("(whole range)") == 1 and ">Controls (whole range)" in drawing.svg
    assert "except those that say so" in drawing.caption
