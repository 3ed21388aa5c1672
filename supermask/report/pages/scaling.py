"""The page of `supermask scaling`: accuracy against width, and against the bytes that have to be kept."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from supermask.report.figures.drawing import Drawing, Series, mark, render, say
from supermask.report.figures.style import WIDTH, style
from supermask.report.formatting import bytes_text, density_text, over_seeds, percent
from supermask.report.methods.catalogue import methods_of
from supermask.report.pages.experiment import Experiment, Page, Section, Table, left_out
from supermask.report.pages.registry import register_page

Point = Mapping[str, Any]


def scaling(document: Mapping[str, Any]) -> Page:
    """Two figures, the crossing widths and every point."""
    points, config = document["points"], document["config"]
    with style():
        by_width = _draw(
            points,
            "scaling-width",
            "width",
            "Test accuracy against the width of the network, on a logarithmic axis; means over seeds, with "
            "lines from the lowest to the highest.",
        )
        by_bytes = _draw(
            points,
            "scaling-bytes",
            "bytes",
            "The same points against the bytes that have to be kept: the file of a ticket, the weights of a "
            "dense network.",
        )
    return Page(
        title=f"Scaling of {config['model']} on {config['data']}",
        notes=(
            "Test accuracy, measured once at the end of each run.",
            "A crossing width is read off between the widths that were run, linearly in their logarithm.",
            *left_out(document),
        ),
        sections=(
            Section("Accuracy and width", figures=(by_width,), tables=(_crossing_table(document),)),
            Section("Accuracy and size", figures=(by_bytes,), tables=(_point_table(points),)),
        ),
    )


def headline(document: Mapping[str, Any]) -> str:
    """How wide each strong ticket must be to reach the dense network, or how far the widest is from it."""
    sentences = []
    dense = {p["width"]: p["mean"] for p in document["points"] if p["method"] == "dense"}
    for found in document["crossings"]:
        method = methods_of([found["method"]])[found["method"]]
        name = f"{method.label} at density {density_text(found['density'])}"
        reference = f"the dense network of width {found['reference']:g}"
        widths = [width for width in found["widths"] if width is not None]
        if widths and len(widths) == len(found["widths"]):
            sentences.append(f"{name} reaches {reference} at {_times(widths, found['reference'])} its width.")
            continue
        own = {p["width"]: p["mean"] for p in document["points"] if _is(p, found)}
        widest = max(own)
        gap = own[widest] - dense[found["reference"]]
        side = f"{percent(abs(gap))} points {'above' if gap > 0 else 'below'}"
        reached = f" ({len(widths)} of {len(found['widths'])} seeds reach it)" if widths else ""
        sentences.append(f"{name} is {side} {reference} at width {widest:g}{reached}.")
    return " ".join(sentences) or "No method was set against a dense network."


def _times(widths: Sequence[float], reference: float) -> str:
    shares = sorted(width / reference for width in widths)
    middle = f"{statistics.median(shares):.2g} times"
    return (
        middle
        if len(shares) == 1
        else f"{middle} ({shares[0]:.2g} to {shares[-1]:.2g} over {len(shares)} seeds)"
    )


def _is(point: Point, found: Mapping[str, Any]) -> bool:
    return (point["method"], point["density"]) == (found["method"], found["density"])


def _lines(points: Sequence[Point]) -> dict[tuple[str, float], list[Point]]:
    """Points by method and density, each by rising width."""
    methods = list(methods_of(point["method"] for point in points))
    keys = sorted({(p["method"], p["density"]) for p in points}, key=lambda k: (methods.index(k[0]), -k[1]))
    return {
        key: sorted((p for p in points if (p["method"], p["density"]) == key), key=_width) for key in keys
    }


def _width(point: Point) -> float:
    width: float = point["width"]
    return width


_TICKS: dict[str, Callable[[float], str]] = {"width": "{:g}".format, "bytes": bytes_text}


def _draw(points: Sequence[Point], name: str, quantity: str, caption: str) -> Drawing:
    figure = Figure(figsize=(WIDTH, 3.0))
    axes = figure.add_subplot()
    lines = _lines(points)
    methods = methods_of(method for method, _ in lines)
    of_method: dict[str, int] = {}
    for (name_of, density), own in lines.items():
        method, turn = methods[name_of], of_method.setdefault(name_of, 0)
        of_method[name_of] += 1
        x, y = [p[quantity] for p in own], [100 * p["mean"] for p in own]
        label = method.label if name_of == "dense" else f"{method.label}, {density_text(density)}"
        dash = "solid" if turn == 0 else (0, (4, 1 + turn))
        marker = method.marker or "o"
        look = Series(label, label, method.colour)
        (line,) = axes.plot(x, y, color=look.colour, marker=marker, ms=4, lw=1.2, ls=dash, label=label)
        low, high = ([100 * p[key] for p in own] for key in ("min", "max"))
        mark(line, look)
        mark(axes.vlines(x, low, high, color=look.colour, lw=0.8), look)
        for point, across, up in zip(own, x, y, strict=True):
            value = f"width {point['width']:g}, {bytes_text(point['bytes'])}: {up:.2f} %"
            say(axes, across, up, look, value)
    axes.set_xscale("log")
    if quantity == "width":
        axes.set_xticks(sorted({p[quantity] for p in points}))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _TICKS[quantity](value)))
    axes.set_xlabel("width, as a multiple" if quantity == "width" else "bytes, logarithmic")
    axes.set_ylabel("test accuracy, %")
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    alt = (
        f"Lines of test accuracy against {quantity}, one for each method and density; the table holds every "
        "number."
    )
    return render(figure, name, alt, caption)


def _crossing_table(document: Mapping[str, Any]) -> Table:
    rows = []
    for found in document["crossings"]:
        label = methods_of([found["method"]])[found["method"]].label
        widths = ["–" if width is None else f"{width:.3g}" for width in found["widths"]]
        rows.append([label, density_text(found["density"]), f"{found['reference']:g}", ", ".join(widths)])
    return Table(
        "Width at which a method reaches the dense network, for each seed; – where the widest does not.",
        ["Method", "Density", "Dense width", "Crossing width"],
        rows,
    )


def _point_table(points: Sequence[Point]) -> Table:
    rows = []
    for (method, density), own in _lines(points).items():
        label = methods_of([method])[method].label
        for p in own:
            rows.append(
                [label, density_text(density), f"{p['width']:g}", over_seeds(p), bytes_text(p["bytes"])]
            )
    return Table("Every point.", ["Method", "Density", "Width", "Test accuracy, %", "Size"], rows)


register_page("scaling", Experiment("scaling", headline, scaling))
