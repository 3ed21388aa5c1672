"""Tables of docs/experiments.md."""

from statistics import fmean
from typing import Any

from _tables.layout import cell, markdown, title


def rounds(document: dict[str, Any], name: str) -> str:
    """IMP: a line per round, a column per method."""
    summary = document["summary"]
    methods = list(dict.fromkeys(entry["method"] for entry in summary if entry["method"] != "dense"))
    cells = {(entry["density"], entry["method"]): cell(entry) for entry in summary}
    densities = sorted({density for density, _ in cells}, reverse=True)
    rows = [["1", cells[1.0, "dense"], *[""] * (len(methods) - 1)]]
    rows += [
        [f"{density:.3f}", *(cells.get((density, m), "") for m in methods)]
        for density in densities
        if density < 1
    ]
    return f"{title(document, name)}\n\n" + markdown(["density", *methods], rows)


def stability(document: dict[str, Any], name: str) -> str:
    """Instability by where copies part."""
    rows = [
        [
            entry["method"],
            f"{entry['density']:.3g}",
            f"{entry['step']} of {document['steps']}",
            cell(entry),
            "yes" if entry["stable"] else "no",
            f"{100 * entry['accuracy']:.2f}",
        ]
        for entry in document["stability"]
    ]
    head = [
        "network",
        "density",
        "copies part at step",
        "instability, points",
        "stable",
        "accuracy of the ends",
    ]
    return f"{title(document, name)}\n\n" + markdown(head, rows)


def transfer(document: dict[str, Any], name: str) -> str:
    """Found in the line, trained in the column."""
    matrix = document["matrix"]
    targets = list(dict.fromkeys(entry["target"] for entry in matrix))
    found = {(entry["source"], entry["density"], entry["target"]): cell(entry) for entry in matrix}
    lines = sorted(
        {key[:2] for key in found}, key=lambda line: (-line[1], list(found).index((*line, targets[0])))
    )
    rows = [
        [source, f"{density:g}", *(found[source, density, t] for t in targets)] for source, density in lines
    ]
    head = ["ticket found on", "density", *(f"trained on {target}" for target in targets)]
    return f"{title(document, name)}\n\n" + markdown(head, rows)


def anatomy(document: dict[str, Any], name: str) -> str:
    """Overlap of two seeds, weights on no path, and the thinnest layer, by method and density."""
    rows = []
    for entry in document["overlaps"]:
        if entry["first"] != entry["second"] or entry["same_seed"]:
            continue
        method, density = entry["first"], entry["density"]
        own = [x for x in document["layers"] if (x["method"], x["density"]) == (method, density)]
        means = {
            layer: fmean(x["layer_density"] for x in own if x["layer"] == layer)
            for layer in dict.fromkeys(x["layer"] for x in own)
        }
        thin, thick = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        rows.append(
            [
                method,
                f"{density:g}",
                f"{100 * entry['overlap']:.1f} ({100 * entry['by_chance']:.1f})",
                f"{100 * (1 - min(x['effective'] for x in own)):.1f}",
                f"{thin}: {means[thin]:.3f}",
                f"{thick}: {means[thick]:.3f}",
            ]
        )
    head = ["method", "density", "shared by two seeds, % (by chance)", "on no path in the worst layer, %",
            "thinnest layer", "densest layer"]  # fmt: skip
    return f"{title(document, name)}\n\n" + markdown(head, rows)


def scaling(document: dict[str, Any], name: str) -> str:
    """A line per method and density, a column per width, and where it crosses the dense network."""
    points = document["points"]
    widths = sorted({point["width"] for point in points})
    cells = {(p["method"], p["density"], p["width"]): cell(p) for p in points}
    crossed = {(c["method"], c["density"]): c["widths"] for c in document["crossings"]}
    rows = []
    for method, density in dict.fromkeys((p["method"], p["density"]) for p in points):
        found = crossed.get((method, density), [])
        where = ", ".join("–" if width is None else f"{width:.2f}" for width in found)
        rows.append([method, f"{density:g}", *(cells[method, density, width] for width in widths), where])
    head = ["method", "density", *(f"width {width:g}" for width in widths), "crossing width, by seed"]
    return f"{title(document, name)}\n\n" + markdown(head, rows)


KINDS = {
    "scaling": scaling,
    "rounds": rounds,
    "stability": stability,
    "transfer": transfer,
    "anatomy": anatomy,
}
