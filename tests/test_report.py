"""The report: numbers against hand arithmetic, a page that needs nothing else, figures that are figures."""

import copy
import math
import random
import statistics
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from supermask.report import formatting as wording
from supermask.report import headline, summary_table, write_report
from supermask.report.figures.line_names import keep_apart
from supermask.report.figures.style import themed
from supermask.report.methods.catalogue import methods_of
from supermask.report.methods.palette import DARK
from supermask.report.results.rows import curves_of, summary_rows
from supermask.search import SEARCHES, register_search
from supermask.search.description import DESCRIPTIONS

DENSE_BYTES = 1_066_440
STEPS = 1170

# Method → test accuracy at the densities 0.5, 0.3, 0.1; seeds 0, 1, 2 are 0, −0.4 and +0.4 points off it.
ACCURACY = {
    "dense": (0.978,),
    "edge-popup": (0.974, 0.971, 0.921),
    "random-mask-frozen": (0.104, 0.101, 0.098),
    "imp": (0.979, 0.981, 0.977),
    "imp-rewind": (0.980, 0.982, 0.979),
    "one-shot": (0.979, 0.977, 0.969),
    "reinit": (0.977, 0.972, 0.957),
    "random-mask": (0.976, 0.968, 0.941),
    "shuffled-mask": (0.975, 0.969, 0.948),
}
SEED_OFFSET = (0.0, -0.004, 0.004)


def make_document(
    command: str = "compare",
    methods: tuple[str, ...] = tuple(ACCURACY),
    densities: tuple[float, ...] = (0.5, 0.3, 0.1),
    seeds: tuple[int, ...] = (0, 1, 2),
    validation: bool = True,
) -> dict[str, Any]:
    """A document as `supermask <command>` writes it, with accuracies that can be checked by hand."""
    rows = [
        make_row(method, density, index, seed, validation)
        for method in methods
        for index, density in enumerate((1.0,) if method == "dense" else densities)
        for seed in seeds
    ]
    return {
        "schema": f"supermask/{command}/1",
        "command": f"supermask {command} --data digits --out runs/{command}",
        "config": {
            "data": "digits",
            "model": "lenet-300-100",
            "model_args": {"width": "2"},
            "densities": list(densities),
            "compile": False,
            "clip": None,
        },
        "machine": {"supermask": "0.1.0", "torch": "2.11.0", "cpu": "A CPU <64 cores>", "device": "cpu"},
        "rows": rows,
        "summary": make_summary(rows),
        "curves": [
            {key: row[key] for key in ("method", "density", "seed")} | {"points": make_points(row)}
            for row in rows
        ],
    }


def make_row(method: str, density: float, index: int, seed: int, validation: bool) -> dict[str, Any]:
    nominal = ACCURACY.get(method, (0.95,))
    beyond = max(0, index - len(nominal) + 1)  # further densities lose more and more
    accuracy = round(nominal[min(index, len(nominal) - 1)] - 0.002 * beyond**1.5 + SEED_OFFSET[seed], 6)
    untrained = method in (*SEARCHES, "random-mask-frozen")
    steps = 0 if method == "random-mask-frozen" else STEPS
    return {
        "method": method,
        "density": density,
        "seed": seed,
        "test_accuracy": accuracy,
        "val_accuracy": accuracy + 0.001 if validation else None,
        "test_loss": 0.1,
        "steps": steps,
        "total_steps": steps * (6 if method == "imp" else 1),
        "seconds": steps / 100 + seed,
        "ticket": None if method == "dense" else f"store/{method}-d{density:.4g}-s{seed}/final.ticket",
        "ticket_bytes": 33_412 if untrained else 34_000 + round(DENSE_BYTES * density),
        "dense_bytes": DENSE_BYTES,
        "kept_density": density,
        "run": f"{method}-d{density:.4g}-s{seed}",
    }


def make_points(row: dict[str, Any]) -> list[dict[str, float]]:
    noise = random.Random(row["run"])
    points = []
    for step in range(58, row["steps"], 58):
        rise = 1 - 0.7 * math.exp(-step / 200)
        point = {"step": step, "train_loss": 2.3 * math.exp(-step / 200) + noise.uniform(0.01, 0.02)}
        if row["val_accuracy"] is not None:
            point["val_accuracy"] = row["val_accuracy"] * rise + noise.uniform(-0.004, 0.004)
        points.append(point)
    return points


def make_summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["density"]), []).append(row["test_accuracy"])
    return [
        {
            "method": method,
            "density": density,
            "n": len(values),
            "mean": statistics.fmean(values),
            "min": min(values),
            "max": max(values),
        }
        for (method, density), values in groups.items()
    ]


SMALL = {"methods": ("dense", "edge-popup"), "densities": (0.5, 0.1), "seeds": (0, 1)}
SIXTEEN = tuple(0.8**round for round in range(1, 17))
CASES = {
    "one seed": {"seeds": (1,)},
    "one density": {"densities": (0.3,)},
    "no validation": {"methods": ("dense", "imp", "reinit"), "seeds": (0, 1), "validation": False},
    "only dense": {"methods": ("dense",)},
    "no dense": {"methods": ("edge-popup", "random-mask-frozen")},
    "only a control": {"methods": ("random-mask-frozen",), "densities": (0.3,)},
    "search": {"command": "search", "methods": ("edge-popup",), "densities": (0.3,), "seeds": (0,)},
    "imp": {"command": "imp", "methods": ("dense", "imp", "reinit"), "densities": SIXTEEN, "seeds": (0,)},
    "unknown": {"methods": ("dense", "gem-miner $x_1$", "<b>&\x00" + "long" * 30), "densities": (0.3, 0.1)},
    "density one": {"methods": ("dense", "edge-popup"), "densities": (1.0,)},
}


class Page(HTMLParser):
    """What a page holds: tags with their attributes, and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] and self.tags[-1][0] not in ("script", "style", "title"):
            self.text += data

    def attributes(self, name: str) -> Iterator[str]:
        return (attributes[name] or "" for _, attributes in self.tags if name in attributes)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """A document with nine methods, three densities and three seeds; its report; its page."""
    document = make_document()
    path = write_report(document, tmp_path_factory.mktemp("report") / "new" / "folder")
    return document, path, path.read_text(encoding="utf-8")


# Words and numbers.


def test_headline_of_a_comparison_is_what_the_data_says() -> None:
    # Means and extremes by hand from ACCURACY and SEED_OFFSET; 1066440 / 33412 = 31.918. On validation
    # (test + 0.1 points throughout) edge-popup is best at density 0.5, where IMP stands beside it.
    assert headline(make_document()) == (
        "On digits with lenet-300-100, an untrained subnetwork at density 0.5 (edge-popup) reaches 97.4 % "
        "test accuracy (3 seeds, 97.0 to 97.8); a random mask on the same frozen weights reaches 10.4 % "
        "(10.0 to 10.8). The trained dense network reaches 97.8 % (97.4 to 98.2). The untrained subnetwork "
        "ends 0.4 points below (−0.4 over 3 seeds) after as many steps: it does not match its dense network "
        "here. IMP at density 0.5 reaches 97.9 % (97.5 to 98.3); its mask on newly drawn weights reaches "
        "97.7 % (97.3 to 98.1). The sparsest such ticket, at density 0.1, reaches 97.7 % (97.3 to 98.1). "
        "The strong ticket weighs 33.4 kB, the dense weights 1.07 MB (31.9×)."
    )


def test_headline_of_a_search() -> None:
    assert headline(make_document(**CASES["search"])) == (
        "On digits with lenet-300-100, an untrained subnetwork at density 0.3 (edge-popup) reaches 97.4 % "
        "test accuracy (seed 0). The strong ticket weighs 33.4 kB, the dense weights 1.07 MB (31.9×)."
    )


def test_headline_of_imp_names_the_sparsest_matching_and_the_sparsest_ticket() -> None:
    # Rounds 1, 2, 3: 97.9, 98.1, 97.7; dense 97.8. Round 16: 97.7 − 0.2 · 13^1.5 = 88.33.
    assert headline(make_document(**CASES["imp"])) == (
        "On digits with lenet-300-100, the trained dense network reaches 97.8 % test accuracy (seed 0). IMP "
        "at density 0.64 reaches 98.1 %; its mask on newly drawn weights reaches 97.2 %. The sparsest such "
        "ticket, at density 0.0281, reaches 88.3 %."
    )


def test_headline_chooses_on_validation_not_on_test() -> None:
    document = make_document(methods=("dense", "edge-popup"))
    for row in document["rows"]:
        row["val_accuracy"] = 0.99 if row["density"] == 0.1 else 0.5
    assert "density 0.1 (edge-popup) reaches 92.1 %" in headline(document)


def test_headline_without_validation_names_the_densest_ticket() -> None:
    document = make_document(methods=("edge-popup",), validation=False)
    document["summary"][2]["mean"] = 0.999  # on the test split, density 0.1 is now the best
    assert "at density 0.5 (edge-popup)" in headline(document)


def test_control_of_another_method_is_not_called_its_own() -> None:
    document = make_document(methods=("imp-rewind", "reinit"))
    assert "newly drawn" not in headline(document)


def test_summary_table_has_a_line_per_method_and_density() -> None:
    table = summary_table(make_document())
    assert len(table) == 1 + 8 * 3
    assert [line["method"] for line in table][:4] == ["dense", "edge-popup", "edge-popup", "edge-popup"]
    imp = next(line for line in table if line["method"] == "imp" and line["density"] == "0.3")
    assert imp == {
        "method": "imp",
        "density": "0.3",
        "seeds": "3",
        "test accuracy %": "98.10",
        "min–max": "97.70–98.50",
        "to dense": "+0.30",
        "steps": "1,170",
        "total steps": "7,020",
        "time": "12.7 s",
        "multiply-adds": "–",
        "ticket": "354 kB",  # 34000 + 0.3 · 1066440 = 353932
        "smaller": "3.01×",  # 1066440 / 353932 = 3.0131
    }


def test_document_is_left_as_it_was(tmp_path: Path) -> None:
    document = make_document(**SMALL)
    before = copy.deepcopy(document)
    write_report(document, tmp_path)
    assert document == before


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (wording.bytes_text(999.4), "999 B"),
        (wording.bytes_text(999.6), "1.00 kB"),
        (wording.bytes_text(33_412), "33.4 kB"),
        (wording.bytes_text(999_600), "1.00 MB"),
        (wording.bytes_text(2.5e12), "2500 GB"),
        (wording.bytes_text(None), "–"),
        (wording.density_text(0.8**5), "0.328"),
        (wording.density_text(1.0), "1"),
        (wording.density_text(0.9999), "0.9999"),
        (wording.sparsity_text(0.0281), "97.19 %"),
        (wording.points(-0.00001), "+0.00"),
        (wording.points(-0.014), "−1.40"),
        (wording.duration_text(59.96), "1 min 00 s"),
        (wording.duration_text(0.04), "0.0 s"),
        (wording.duration_text(3600 + 125), "1 h 02 min"),
        (wording.value_text({"a": [1, None], "b": True}), "a=1, –, b=true"),
        (wording.printable("a\x1b[31m"), "a\N{REPLACEMENT CHARACTER}[31m"),
    ],
)
def test_numbers_as_text(said: str, expected: str) -> None:
    assert said == expected


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"schema": "supermask/elsewhere/1"}, "supermask/elsewhere/1.*give the results.json"),
        ({}, "None.*give the results.json"),
        (make_document() | {"rows": []}, "no rows"),
    ],
)
def test_other_documents_are_refused_with_a_remedy(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        headline(document)


# The page.


def test_every_number_of_every_row_is_on_the_page(report: tuple[dict[str, Any], Path, str]) -> None:
    document, _, html = report
    text = Page(html).text.replace("\N{NO-BREAK SPACE}", " ")
    for entry in document["summary"]:
        assert f"{100 * entry['mean']:.2f}" in text
        assert f"({100 * entry['min']:.2f}–{100 * entry['max']:.2f})" in text
    for row in document["rows"]:
        assert f"{100 * row['test_accuracy']:.2f}" in text
        assert f"{row['total_steps']:,}" in text
        assert row["ticket"] is None or row["ticket"] in text
    for line in summary_table(document):
        for key in ("to dense", "steps", "total steps", "time", "ticket", "smaller"):
            assert line[key] in text
    assert headline(document) in text
    assert document["command"] in text
    assert "--model-args" in text and "width=2" in text
    assert "A CPU <64 cores>" in text


def test_page_loads_nothing(report: tuple[dict[str, Any], Path, str]) -> None:
    page = Page(report[2])
    assert not {"link", "iframe", "img", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    assert not list(page.attributes("src"))
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "csv"}, {}]  # data, and ours
    ids = set(page.attributes("id"))
    references = [*page.attributes("href"), *page.attributes("xlink:href")]
    assert references and all(reference.removeprefix("#") in ids for reference in references)
    namespaces = ('"http://www.w3.org/2000/svg"', '"http://www.w3.org/1999/xlink"')  # names, not addresses
    text = report[2].replace(namespaces[0], "").replace(namespaces[1], "")
    assert "http://" not in text and "https://" not in text and "@import" not in text


def test_page_can_be_read_aloud(report: tuple[dict[str, Any], Path, str]) -> None:
    page = Page(report[2])
    tags = [tag for tag, _ in page.tags]
    assert tags.count("h1") == 1
    assert tags.count("caption") == tags.count("table") == 4
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(drawings) == 6  # two of the four figures have a linear axis as well
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)
    ids = list(page.attributes("id"))
    assert len(ids) == len(set(ids))


def test_hostile_strings_do_not_inject(tmp_path: Path) -> None:
    attack = '"><script src="http://evil.example/x.js"></script><img src=x onerror=alert(1)>{{ 7 * 7 }}'
    document = make_document(methods=("dense", attack), densities=(0.3,))
    document |= {"command": attack, "machine": {attack: attack}}
    document["config"] |= {"data": attack, "model": attack, attack: [attack]}
    for row in document["rows"]:
        row["ticket"] = attack
    page = Page(write_report(document, tmp_path).read_text(encoding="utf-8"))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 2 and "img" not in tags
    assert not list(page.attributes("onerror")) and not list(page.attributes("src"))
    assert page.text.count(attack) > 5


@pytest.mark.parametrize("case", CASES)
def test_unusual_documents(case: str, tmp_path: Path) -> None:
    document = make_document(**CASES[case])
    page = Page(write_report(document, tmp_path).read_text(encoding="utf-8"))
    assert headline(document) in page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert not list(page.attributes("src")) and "image" not in {tag for tag, _ in page.tags}


def test_seeds_of_one_accuracy_have_a_mean_beside_them(tmp_path: Path) -> None:
    """Rounding can put the mean of equal numbers outside them, and bars would get a negative length."""
    value = next(k / 360 for k in range(1, 360) if statistics.fmean([k / 360] * 3) > k / 360)
    document = make_document()
    for row in document["rows"]:
        row["test_accuracy"] = value
    document["summary"] = make_summary(document["rows"])
    assert any(entry["mean"] > entry["max"] for entry in document["summary"])
    assert "<svg" in write_report(document, tmp_path).read_text(encoding="utf-8")


def test_page_without_command_shows_the_configuration(tmp_path: Path) -> None:
    document = make_document(**SMALL)
    del document["command"]
    assert "<details open>\n<summary>Configuration" in write_report(document, tmp_path).read_text()


def test_missing_curves_leave_no_figure_of_an_earlier_report(tmp_path: Path) -> None:
    document = make_document(**SMALL)
    write_report(document, tmp_path)
    assert (tmp_path / "learning-curves.png").exists()
    page = write_report(document | {"curves": []}, tmp_path).read_text(encoding="utf-8")
    assert "No run recorded a learning curve" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "accuracy-density.png",
        "report.html",
        "ticket-size.png",
    ]


# The figures.


def test_figures_are_fit_for_print(report: tuple[dict[str, Any], Path, str]) -> None:
    for name in ("accuracy-density", "ticket-size", "learning-curves"):
        with Image.open(BytesIO((report[1].parent / f"{name}.png").read_bytes())) as image:
            image.load()
            assert image.format == "PNG"
            assert image.info["dpi"] == pytest.approx((300, 300), abs=1)
            assert image.width == round(7.2 * 300) and image.height > 400
            darkest, brightest = image.convert("L").getextrema()
            assert darkest < 60 and brightest == 255


def test_same_document_same_bytes_whatever_the_settings(tmp_path: Path) -> None:
    document = make_document(**SMALL)
    write_report(document, tmp_path / "a")
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "svg.fonttype": "path"}):
        write_report(document, tmp_path / "b")
        assert matplotlib.rcParams["font.size"] == 20
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 4
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_colours_follow_the_theme() -> None:
    assert all(method.colour in DARK for method in methods_of(DESCRIPTIONS).values())
    assert themed("#0072b2") == "var(--c-0072b2, #0072b2)"
    assert themed("#123456") == "#123456"


def test_unlisted_methods_get_a_look_and_a_place() -> None:
    found = methods_of(["zeta", "reinit", "alpha", "dense", "imp"])
    assert list(found) == ["dense", "imp", "reinit", "alpha", "zeta"]
    assert found["alpha"].group == "other" and found["alpha"].is_ticket
    assert found["alpha"].colour != found["zeta"].colour
    assert found["alpha"].colour in DARK
    many = methods_of(f"method-{number}" for number in range(30))
    assert len(many) == 30


def test_a_new_search_is_a_strong_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supermask.search.registry._watchers", [])
    monkeypatch.setattr("supermask.search.registry.SEARCHES", {})
    monkeypatch.setitem(DESCRIPTIONS, "brand-new", DESCRIPTIONS["zhou"])  # taken away again
    register_search("brand-new")(type("BrandNew", (), {}))
    assert methods_of(["brand-new"])["brand-new"].group == "strong"


def test_curves_average_the_steps_that_all_seeds_have() -> None:
    points = [{"step": 1, "val_accuracy": 0.2}, {"step": 2, "val_accuracy": 0.4}]
    runs = [
        {"method": "imp", "density": 0.3, "seed": 0, "points": points},
        {"method": "imp", "density": 0.3, "seed": 1, "points": [{"step": 2, "val_accuracy": 0.6}]},
        {"method": "random-mask-frozen", "density": 0.3, "seed": 0, "points": []},
    ]
    (curve,) = curves_of({"curves": runs}, "val_accuracy")
    assert (curve.steps, curve.mean, curve.low, curve.high) == ((2,), (0.5,), (0.4,), (0.6,))


def test_rows_are_ordered_by_group_then_density() -> None:
    document = make_document()
    random.Random(0).shuffle(document["summary"])
    groups = [row.method.group for row in summary_rows(document)]
    assert groups == ["dense"] + ["strong"] * 3 + ["trained"] * 9 + ["control"] * 12
    densities = [row.density for row in summary_rows(document)]
    assert densities == [1.0] + [0.5, 0.3, 0.1] * 8


@given(st.lists(st.floats(-20, 20), max_size=12), st.floats(0.01, 0.08))
def test_labels_keep_apart_in_order_and_in_the_frame(wanted: list[float], gap: float) -> None:
    wanted = sorted(wanted)
    placed = keep_apart(wanted, gap)
    assert len(placed) == len(wanted)
    assert all(-1e-9 <= position <= 1 + 1e-9 for position in placed)
    assert all(after - before >= gap - 1e-9 for before, after in pairwise(placed))


def test_labels_with_room_stay_where_they_belong() -> None:
    assert keep_apart([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert keep_apart([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
