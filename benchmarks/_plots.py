"""Figures of the benchmarks, beside their JSON."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def plot_speedups(speedups: Mapping[str, Mapping[str, float]], title: str, path: Path) -> None:
    """A line for each case, a mark for each rival, on a logarithmic axis; right of 1 is faster.

    Args:
        speedups: Case → rival → how many times faster than the rival ours is.
        title: What the axis shows.
        path: Where the PNG goes.
    """
    rivals = list(dict.fromkeys(rival for row in speedups.values() for rival in row))
    figure, axes = plt.subplots(figsize=(10, 0.36 * len(speedups) + 1.6))
    for rival, marker in zip(rivals, "osD^vP*X", strict=False):
        places = [(row[rival], i) for i, row in enumerate(speedups.values()) if rival in row]
        axes.plot(*zip(*places, strict=True), marker, label=rival, alpha=0.8)
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel(title)
    axes.xaxis.set_major_formatter("{x:g}×")
    axes.set_yticks(range(len(speedups)), list(speedups))
    axes.invert_yaxis()
    axes.grid(axis="both", alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
