"""The page of `supermask anatomy`: density by layer, overlaps, and how far masks move."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from supermask.report.figures.drawing import Drawing, Series, mark, render, say
from supermask.report.figures.style import WIDTH, density_colours, style
from supermask.report.formatting import density_text, percent
from supermask.report.methods.catalogue import methods_of
from supermask.report.pages.experiment import Experiment, Page, Section, Table, left_out
from supermask.report.pages.registry import register_page

Entry = Mapping[str, Any]


def anatomy(document: Mapping[str, Any]) -> Page:
    """Figures and tables of every finding."""
    layers, distances = document["layers"], document["distances"]
    with style():
        by_layer = _draw_layers(layers) if layers else None
        moved = _draw_distances(distances) if distances else None
    sections = []
    if by_layer is not None:
        sections += [
            Section("Density by layer", figures=(by_layer,), tables=(_layer_table(layers),)),
            Section("Overlap of masks", text=(_OVERLAP,), tables=(_overlap_table(document["overlaps"]),)),
        ]
    if moved is not None:
        sections.append(Section("How far a mask moves", figures=(moved,)))
    config = document["config"]
    return Page(
        title=f"Anatomy of masks of {config['model']} on {config['data']}",
        sections=sections,
        notes=("Means over seeds.", *left_out(document)),
    )


_OVERLAP = (
    "The share of the weights kept by either mask that both keep. By chance: what two random masks with the "
    "same counts in every layer would share."
)


def headline(document: Mapping[str, Any]) -> str:
    """How much two seeds of one method agree, what part of the kept weights does nothing, and dead units."""
    if not document["layers"]:
        return "None of these methods has a mask of a layer's weights; those of norms are not looked at."
    across = [e for e in document["overlaps"] if e["first"] == e["second"] and not e["same_seed"]]
    sentences = []
    if across:
        most = max(across, key=lambda entry: entry["overlap"] - entry["by_chance"])
        sentences.append(
            f"Masks of two seeds agree most for {_label(most['first'])} at density "
            f"{density_text(most['density'])}: {percent(most['overlap'])} % of their weights are shared, by "
            f"chance {percent(most['by_chance'])} %."
        )
    worst = min(document["layers"], key=lambda entry: entry["effective"])
    if worst["effective"] < 1:
        sentences.append(
            f"{percent(1 - worst['effective'])} % of the weights that {_label(worst['method'])} keeps in "
            f"{worst['layer']} at density {density_text(worst['density'])} lie on no path."
        )
    else:
        sentences.append("Every kept weight lies on a path from input to output.")
    if dying := [entry for entry in document["layers"] if entry.get("dead")]:
        most = max(dying, key=lambda entry: entry["dead"] / entry["unit_count"])
        sentences.append(
            f"No training image reaches {most['dead']} of {most['unit_count']} units of {most['layer']} of "
            f"{_label(most['method'])} at density {density_text(most['density'])}, seed {most['seed']}."
        )
    return " ".join(sentences)


def _label(method: str) -> str:
    return methods_of([method])[method].label


def _means(entries: Sequence[Entry], *keys: str) -> dict[tuple[Any, ...], list[Entry]]:
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(tuple(entry[key] for key in keys), []).append(entry)
    return groups


def _draw_layers(layers: Sequence[Entry]) -> Drawing:
    densities = sorted({entry["density"] for entry in layers}, reverse=True)
    names = list(dict.fromkeys(entry["layer"] for entry in layers))
    looks = methods_of(entry["method"] for entry in layers)
    figure = Figure(figsize=(WIDTH, 1.0 + 1.7 * len(densities)))
    panels = figure.subplots(len(densities), 1, sharex=True, squeeze=False)[:, 0]
    for panel, density in zip(panels, densities, strict=True):
        panel.set_title(f"density {density_text(density)}")
        panel.set_ylabel("on a path (%)")
        for name, method in looks.items():
            here = [e for e in layers if e["density"] == density and e["method"] == name]
            groups = _means(here, "layer")
            if groups:
                shares = [[e["layer_density"] * e["effective"] for e in groups[(n,)]] for n in names]
                values = [100 * fmean(share) for share in shares]
                (line,) = panel.plot(
                    range(len(names)),
                    values,
                    color=method.colour,
                    ls=method.dash,
                    marker=method.marker,
                    ms=4,
                    lw=1.3,
                    label=method.label,
                )
                mark(line, method)
                for index, value in enumerate(values):
                    say(panel, index, value, method, f"{names[index]}: {value:.2f} %")
        panel.set_ylim(bottom=0)
    panels[-1].set_xticks(range(len(names)), names, rotation=30 if len(names) > 4 else 0, ha="center")
    panels[0].legend(frameon=False, fontsize=6.5, ncols=3)
    caption = (
        "Weights of each layer that are kept and lie on a path from input to output, mean over seeds; the "
        "table has the two apart."
    )
    return render(figure, "layer-density", f"Density of each of {len(names)} layers by method.", caption)


def _draw_distances(distances: Sequence[Entry]) -> Drawing:
    looks = methods_of(entry["method"] for entry in distances)
    figure = Figure(figsize=(WIDTH, 2.6))
    panels = figure.subplots(1, 2, sharey=True)
    colours = density_colours(entry["density"] for entry in distances)
    dashes = dict(zip(looks, cycle(("solid", (0, (4, 1.6)), (0, (1.2, 1.4)), (0, (4, 1.4, 1.2, 1.4))))))
    views = (("from_first", "from its start"), ("from_last", "from its end"))
    for panel, (key, title) in zip(panels, views, strict=True):
        panel.set_title(f"distance {title}")
        panel.set_xlabel("step")
        for (name, density), entries in _means(distances, "method", "density").items():
            by_step = sorted(_means(entries, "step").items())
            points = [(step, 100 * fmean(e[key] for e in members)) for (step,), members in by_step]
            label = f"{looks[name].label}, density {density_text(density)}"
            xs, ys = zip(*points, strict=True)
            look = Series(label, label, colours[density])
            (line,) = panel.plot(xs, ys, color=look.colour, lw=1.4, ls=dashes[name], label=label)
            mark(line, look)
            for x, y in points:
                say(panel, x, y, look, f"step {x:,}: {y:.2f} %")
        panel.set_ylim(bottom=0)
    panels[0].set_ylabel("entries that differ (%)")
    panels[0].legend(frameon=False, fontsize=6.5)
    caption = "Entries of the mask that differ from the first and from the last mask, mean over seeds."
    return render(figure, "mask-distance", "How much of a mask differs along training.", caption)


def _layer_table(layers: Sequence[Entry]) -> Table:
    rows = []
    for (method, density, layer), entries in _means(layers, "method", "density", "layer").items():
        first = entries[0]
        kernels = "–"
        if "kernel_count" in first:
            kernels = f"{fmean(e['kernels'] for e in entries):.1f} of {first['kernel_count']}"
        paths = [e["log10_paths"] for e in entries]
        rows.append(
            [
                _label(method),
                density_text(density),
                layer,
                percent(fmean(e["layer_density"] for e in entries)),
                percent(fmean(e["effective"] for e in entries)),
                f"{fmean(e['units'] for e in entries):.1f} of {first['unit_count']}",
                _dead(entries),
                kernels,
                "none" if None in paths else f"10^{fmean(paths):.1f}",
            ]
        )
    columns = (
        "Method", "Density", "Layer", "Kept, %", "of these on a path, %", "Units gone", "dead on data",
        "Kernels gone",
        "Paths of the network",
    )  # fmt: skip
    return Table("Layer by layer.", columns, rows, folded=len(rows) > 30)


def _dead(entries: Sequence[Entry]) -> str:
    """Mean number of units that no image gives a gradient; results of version 0.1.0 do not have it."""
    known = [entry["dead"] for entry in entries if entry.get("dead") is not None]
    return f"{fmean(known):.1f}" if known else "–"


def _overlap_table(overlaps: Sequence[Entry]) -> Table:
    rows = [
        [
            _label(entry["first"]),
            _label(entry["second"]),
            density_text(entry["density"]),
            "the same" if entry["same_seed"] else "another",
            percent(entry["overlap"]),
            percent(entry["by_chance"]),
            str(entry["n"]),
        ]
        for entry in overlaps
    ]
    columns = ("First", "Second", "Density", "Seed", "Shared, %", "By chance, %", "Pairs")
    return Table("Pairs of masks.", columns, rows)


register_page("anatomy", Experiment("anatomy", headline, anatomy))
