"""The page of `theory`: error against overparameterization, with the line that theory predicts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from supermask.report.figures.drawing import Drawing, Series, bars_to, mark, render, say
from supermask.report.figures.line_names import Name, in_axes, name_lines
from supermask.report.figures.style import INK, PAPER, QUIET, WIDTH, style
from supermask.report.formatting import count_text, percent
from supermask.report.methods.method import Method
from supermask.report.pages.experiment import Experiment, Page, Section, Table
from supermask.report.pages.registry import register_page
from supermask.theory.constructions import CONSTRUCTIONS

_LOOKS = {
    "malach": ("#69727d", "v"),
    "pensia": ("#d55e00", "o"),
    "orseau": ("#0072b2", "s"),
    "attention": ("#009e73", "D"),
}
METHODS = {
    name: Method(name, construction.paper, "strong", *_LOOKS[name], about=construction.law)
    for name, construction in CONSTRUCTIONS.items()
}
_POWER_LAWS = ("malach",)
"""Constructions whose error is a straight line over a logarithmic n."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
Entry = Mapping[str, Any]


def theory(document: Mapping[str, Any]) -> Page:
    """Both figures and the table."""
    drawings = draw_figures(document)
    return Page(
        title=f"Strong tickets by construction, {document['config']['data']}",
        notes=(
            "A trained target network is approximated by masks over a wider random network, whose weights "
            "stay as drawn; errors are measured on test images. n counts random units for each input.",
        ),
        sections=(
            Section("Error against overparameterization", figures=[drawings["theory-error"]]),
            Section("What it costs", figures=[drawings["theory-size"]], tables=[table(document)]),
        ),
    )


def headline(document: Mapping[str, Any]) -> str:
    """What the largest network of each construction reaches."""
    largest: dict[str, Entry] = {}
    for entry in document["summary"]:
        largest[entry["construction"]] = max(
            entry, largest.get(entry["construction"], entry), key=lambda e: e["n"]
        )
    parts = [
        f"{METHODS[name].label} reaches {percent(entry['accuracy'])} % with {_ratio(entry):.0f} times the "
        f"weights (target {percent(entry['target_accuracy'])} %)"
        for name, entry in largest.items()
    ]
    return "; ".join(parts) + "."


def draw_figures(document: Mapping[str, Any]) -> dict[str, Drawing]:
    """Name → figure: `theory-error`, error against n with its prediction, and `theory-size`, output error
    against how much larger the random network is."""
    groups: dict[str, list[Entry]] = {}
    for entry in document["summary"]:
        groups.setdefault(entry["construction"], []).append(entry)
    rates = {rate["construction"]: rate for rate in document["rates"]}
    with style():
        drawings = [_draw_errors(groups, rates), _draw_sizes(groups)]
    return {drawing.name: drawing for drawing in drawings}


def table(document: Mapping[str, Any]) -> Table:
    """The summary, a line for each construction and n."""
    rows = []
    for entry in document["summary"]:
        errors = [f"{entry[key]['mean']:.1e}" for key in _TABLE_ERRORS]
        accuracies = [percent(entry[key]) for key in ("accuracy", "target_accuracy")]
        sizes = [count_text(entry[key]) for key in ("random_weights", "kept_weights")]
        rows.append([METHODS[entry["construction"]].label, str(entry["n"]), *errors, *accuracies, *sizes])
    columns = ("Construction", "n", "Weight error", "largest", "Output error", "largest", "Accuracy, %",
               "Target, %", "Random weights", "Kept")  # fmt: skip
    return Table("Means over random networks.", columns, rows)


_TABLE_ERRORS = ("mean_weight_error", "max_weight_error", "mean_output_error", "max_output_error")
_CURVES = (("mean_weight_error", "mean weight error", 1.6), ("max_output_error", "largest output error", 0.8))


def _draw_errors(groups: Mapping[str, Sequence[Entry]], rates: Mapping[str, Mapping[str, Any]]) -> Drawing:
    columns = min(2, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(WIDTH, 0.4 + 2.3 * rows))
    every = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for axes in every[len(groups) :]:
        axes.remove()
    for index, (axes, (name, entries)) in enumerate(zip(every, groups.items(), strict=False)):
        _draw_panel(axes, name, entries, rates.get(name))
        if index % columns == 0:
            axes.set_ylabel("error, logarithmic")
    slopes = "; ".join(
        f"{METHODS[name].label}: {rate['slope']:.2f} of the predicted fall, {rate['law']}"
        for name, rate in rates.items()
        if name in groups
    )
    alt = (
        "Mean weight error and largest output error on a logarithmic axis against the random numbers for "
        f"each weight, one panel for each construction, with the predicted line. {slopes}."
    )
    caption = (
        "Error of the pruned random network against n, the random units for each input. Thick: mean error "
        "of a weight. Thin: largest error of the output over the test images, Euclidean. Mean over networks, "
        "bars from the smallest to the largest. Dashed: the predicted fall, laid through the middle of the "
        "weight errors."
    )
    return render(figure, "theory-error", alt, caption)


def _draw_panel(axes: Axes, name: str, entries: Sequence[Entry], rate: Mapping[str, Any] | None) -> None:
    colour, marker = _LOOKS[name]
    sizes = [entry["n"] for entry in entries]
    for key, label, width in _CURVES:
        bars = axes.errorbar(
            sizes,
            [entry[key]["mean"] for entry in entries],
            yerr=bars_to(*([entry[key][end] for entry in entries] for end in ("mean", "min", "max"))),
            color=colour,
            lw=width,
            elinewidth=0.8,
            marker=marker if width > 1 else "",
            ms=4.2,
            mec=PAPER,
            mew=0.4,
            label=label,
        )
        look = Series(key, label, colour)
        for artist in bars.get_children():
            mark(artist, look)
        for entry in entries:
            value = f"{METHODS[name].label}, n = {entry['n']}: {entry[key]['mean']:.2e}"
            say(axes, entry["n"], entry[key]["mean"], look, value)
    if rate is not None:
        steps = [sizes[0] + (sizes[-1] - sizes[0]) * index / 200 for index in range(201)]
        if name == "orseau":
            steps = [float(size) for size in sizes]  # the number of digits is a whole one
        predicted = [math.exp(rate["offset"] + CONSTRUCTIONS[name].log_error(step)) for step in steps]
        (line,) = axes.plot(steps, predicted, color=INK, lw=0.9, ls=(0, (4, 3)), label="predicted", zorder=4)
        mark(line, Series("predicted", "predicted", INK))
    axes.set_yscale("log")
    _powers(axes.yaxis)
    if name in _POWER_LAWS:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(False, axis="x")
    axes.set_title(METHODS[name].label)
    axes.set_xlabel(f"n     {CONSTRUCTIONS[name].law}", color=QUIET)
    axes.legend(frameon=False, fontsize=6.5, loc="lower left", handlelength=2.2)


def _draw_sizes(groups: Mapping[str, Sequence[Entry]]) -> Drawing:
    figure = Figure(figsize=(WIDTH, 3.2))
    axes = figure.add_subplot()
    curves = {name: [(_ratio(entry), _relative(entry)) for entry in group] for name, group in groups.items()}
    for name, points in curves.items():
        colour, marker = _LOOKS[name]
        xs, ys = zip(*points, strict=True)
        (line,) = axes.plot(xs, ys, color=colour, lw=1.6, marker=marker, ms=4.6, mec=PAPER, mew=0.4)
        mark(line, METHODS[name])
        for x, y in points:
            say(axes, x, y, METHODS[name], f"{x:.3g} times the weights: {y:.2e}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    _powers(axes.xaxis)
    _powers(axes.yaxis)
    axes.set_xlabel("weights of the random network for each of the target")
    axes.set_ylabel("largest output error / output norm")
    names = []
    for name, points in curves.items():
        end = in_axes(axes, *points[-1])
        names.append(Name(METHODS[name], METHODS[name].label, end[1], end))
    name_lines(axes, names, gap=0.06)
    alt = (
        "Largest output error, as a share of the mean output norm of the target, against how many times as "
        f"many weights the random network has, for {', '.join(METHODS[name].label for name in groups)}."
    )
    caption = (
        "What precision costs: the largest output error over the test images, divided by the mean norm of "
        "the target's outputs, against the weights of the random network before pruning. Mean over random "
        "networks."
    )
    return render(figure, "theory-size", alt, caption)


def _powers(axis: Axis) -> None:
    """Ticks at the powers of ten, written as such without markup."""
    axis.set_major_locator(LogLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: power_text(value)))
    axis.set_minor_locator(NullLocator())


def power_text(value: float) -> str:
    """0.001 → `10⁻³`; 1, 10 and 100 as they are."""
    exponent = round(math.log10(value))
    return f"{10**exponent}" if 0 <= exponent <= 2 else "10" + str(exponent).translate(_SUPERSCRIPTS)


def _ratio(entry: Entry) -> float:
    return float(entry["random_weights"] / entry["target_weights"])


def _relative(entry: Entry) -> float:
    return float(entry["max_output_error"]["mean"] / entry["mean_output_norm"])


register_page("theory", Experiment("theory", headline, theory))
