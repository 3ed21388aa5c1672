"""The page of `supermask stability`: error along lines, instability against the step where copies part."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from supermask.analysis.connectivity import STABLE_BELOW
from supermask.report.figures.drawing import Drawing, Series, bars_to, mark, render, say
from supermask.report.figures.style import INK, QUIET, WIDTH, style
from supermask.report.formatting import density_text, over_seeds, percent
from supermask.report.pages.experiment import Experiment, Page, Section, Table
from supermask.report.pages.registry import register_page

PANELS = 4
_COLOURS = (INK, "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#882255")
_MARKERS = ("o", "s", "D", "^", "v", "p")


def stability(document: Mapping[str, Any]) -> Page:
    """Figures 2 and 3 of the paper, and every number."""
    summary = document["stability"]
    config = document["config"]
    with style():
        figures = (_draw_lines(document), _draw_instability(summary, document["steps"]))
    threshold = percent(STABLE_BELOW, 0)
    return Page(
        title=f"Stability of {config['model']} on {config['data']}",
        notes=(
            f"Copies of a network part at step k of {document['steps']} and are trained on with different "
            "data orders. Instability is the highest error on the line between two of them above the mean of "
            f"its ends, on the test split; below {threshold} points a network counts as stable.",
        ),
        sections=(
            Section("Error along the line", figures=figures[:1]),
            Section("Instability", figures=figures[1:], tables=(_table(summary),)),
            Section("Every line", tables=(_rows(document["rows"]),)),
        ),
    )


def headline(document: Mapping[str, Any]) -> str:
    """From which step on each network is stable."""
    sentences = []
    for density, entries in groupby(document["stability"], key=lambda entry: entry["density"]):
        members = list(entries)
        name = _name(density)
        stable = [entry["step"] for entry in members if entry["stable"]]
        first = members[0]
        worst = f"instability {percent(first['mean'], 2)} points where copies part at step {first['step']}"
        if len(stable) == len(members):
            sentences.append(f"The {name} is stable at every step looked at: {worst}.")
        elif members[-1]["stable"]:
            last_unstable = max(entry["step"] for entry in members if not entry["stable"])
            then = min(step for step in stable if step > last_unstable)
            sentences.append(f"The {name} is unstable at first ({worst}) and stable from step {then} on.")
        else:
            count = f"{len(stable)} of {len(members)}"
            sentences.append(
                f"The {name} is stable at {count} steps looked at, and not at the last ({worst})."
            )
    return " ".join(sentences)


def _name(density: float) -> str:
    return "dense network" if density == 1 else f"ticket of density {density_text(density)}"


def _looks(densities: Sequence[float]) -> dict[float, tuple[str, str]]:
    return {d: (_COLOURS[i % 6], _MARKERS[i % 6]) for i, d in enumerate(sorted(set(densities), reverse=True))}


def _draw_lines(document: Mapping[str, Any]) -> Drawing:
    """Mean error along the line, with the range over lines, for a few of the steps."""
    lines = document["lines"]
    steps = sorted({entry["step"] for entry in lines})
    shown = (
        steps
        if len(steps) <= PANELS
        else [steps[i * (len(steps) - 1) // (PANELS - 1)] for i in range(PANELS)]
    )
    looks = _looks([entry["density"] for entry in lines])
    figure = Figure(figsize=(WIDTH, 2.5))
    panels: Sequence[Axes] = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for panel, step in zip(panels, shown, strict=True):
        panel.set_title(f"parted at step {step}")
        panel.set_xlabel("α")
        for density, (colour, _) in looks.items():
            members = [e for e in lines if e["step"] == step and e["density"] == density]
            if not members:
                continue
            columns = list(zip(*(entry["errors"] for entry in members), strict=True))
            alphas = members[0]["alphas"]
            look = Series(_name(density), _name(density), colour)
            band = panel.fill_between(
                alphas,
                [100 * min(c) for c in columns],
                [100 * max(c) for c in columns],
                color=colour,
                alpha=0.15,
                lw=0,
            )
            mark(band, look)
            means = [100 * fmean(c) for c in columns]
            (line,) = panel.plot(alphas, means, color=colour, lw=1.4, label=look.label)
            mark(line, look)
            for alpha, mean in zip(alphas, means, strict=True):
                say(panel, alpha, mean, look, f"α = {alpha:.3g}: {mean:.2f} % error")
    panels[0].set_ylabel("test error (%)")
    panels[0].set_ylim(bottom=0)
    if len(looks) > 1:
        panels[-1].legend(frameon=False, fontsize=6.5)
    alt = f"Test error along the line between two copies, in panels for steps {', '.join(map(str, shown))}."
    caption = (
        "Test error at α · first + (1 − α) · second: mean over pairs of copies and initializations, with "
        "lowest and highest as a band."
    )
    return render(figure, "error-along-line", alt, caption)


def _draw_instability(summary: Sequence[Mapping[str, Any]], steps: int) -> Drawing:
    """Instability against the step where copies part; step 0 stands on the logarithmic axis as well."""
    looks = _looks([entry["density"] for entry in summary])
    figure = Figure(figsize=(WIDTH, 2.8))
    axes = figure.add_subplot()
    for density, (colour, marker) in looks.items():
        members = [entry for entry in summary if entry["density"] == density]
        means = [100 * entry["mean"] for entry in members]
        look = Series(_name(density), _name(density), colour)
        ends = [(100 * entry["min"], 100 * entry["max"]) for entry in members]
        steps_here = [entry["step"] for entry in members]
        if members[0].get("std") is not None:
            reach: Any = [100 * (entry.get("std") or 0.0) for entry in members]
            for end in zip(*ends, strict=True):
                (dots,) = axes.plot(steps_here, end, color=colour, ls="", marker="_", ms=5, alpha=0.6)
                mark(dots, look)
        else:  # results of version 0.1.0 have no standard deviations
            reach = bars_to(means, *zip(*ends, strict=True))
        bars = axes.errorbar(
            steps_here,
            means,
            yerr=reach,
            color=colour,
            marker=marker,
            ms=4.5,
            lw=1.4,
            elinewidth=0.8,
            label=_name(density),
        )
        for artist in bars.get_children():
            mark(artist, look)
        for entry, mean in zip(members, means, strict=True):
            say(axes, entry["step"], mean, look, f"parted at step {entry['step']:,}: {mean:.2f} points")
    smallest = min((entry["step"] for entry in summary if entry["step"]), default=1)
    axes.set_xscale("symlog", linthresh=smallest, linscale=0.4)
    axes.set_xlim(left=-0.1 * smallest)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(sorted({entry["step"] for entry in summary}))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axhline(100 * STABLE_BELOW, color=QUIET, lw=0.9, ls=(0, (4, 2)))
    edge: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "bottom", "ha": "right"}
    axes.text(1.0, 100 * STABLE_BELOW, "stable below", fontsize=6.5, color=QUIET, **edge)
    axes.set_xlabel(f"step where the copies part, of {steps}")
    axes.set_ylabel("instability (points of error)")
    axes.legend(frameon=False, fontsize=7)
    alt = "Instability against the step where copies part. The table holds every number."
    caption = f"Mean over pairs of copies and initializations; {_bars(summary)}."
    return render(figure, "instability", alt, caption)


def _bars(summary: Sequence[Mapping[str, Any]]) -> str:
    """What the bars are: older results have no standard deviations."""
    if any(entry.get("std") is not None for entry in summary):
        return "bars are one standard deviation, ticks the lowest and the highest"
    return "bars from lowest to highest"


def _ticks(steps: Sequence[int]) -> list[int]:
    """The steps whose numbers have room on a logarithmic axis."""
    ticks: list[int] = []
    for step in steps:
        if not ticks or step >= 1.6 * ticks[-1]:
            ticks.append(step)
    return ticks


def _table(summary: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            _name(entry["density"]),
            str(entry["step"]),
            over_seeds(entry),
            percent(entry.get("std"), 2),
            "stable" if entry["stable"] else "unstable",
            percent(entry["accuracy"], 2),
            str(entry["n"]),
        ]
        for entry in summary
    ]
    columns = (
        "Network",
        "Step",
        "Instability, points",
        "Std. dev.",
        "Verdict",
        "Accuracy of the ends, %",
        "Lines",
    )
    return Table("Mean over pairs of copies and initializations, with lowest and highest.", columns, rows)


def _rows(rows: Sequence[Mapping[str, Any]]) -> Table:
    cells = [
        [_name(row["density"]), str(row["step"]), str(row["seed"])]
        + [percent(row[key], 2) for key in ("instability", "accuracy")]
        for row in rows
    ]
    columns = ("Network", "Step", "Seed", "Instability, points", "Accuracy of the ends, %")
    return Table(f"Every line ({len(rows)})", columns, cells, folded=True)


register_page("stability", Experiment("stability", headline, stability))
