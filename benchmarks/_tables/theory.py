"""Tables of docs/theory.md."""

from typing import Any

from _tables.layout import markdown


def theory(document: dict[str, Any], name: str) -> str:
    """Constructions: a line for each size, and how the error falls."""
    rows = [
        [
            f"`{entry['construction']}`",
            str(entry["n"]),
            f"{entry['random_weights'] / entry['target_weights']:.0f}",
            f"{entry['mean_weight_error']['mean']:.1e}",
            f"{entry['max_output_error']['mean'] / entry['mean_output_norm']:.1e}",
            f"{100 * entry['accuracy']:.1f}",
            f"{100 * entry['target_accuracy']:.1f}",
        ]
        for entry in document["summary"]
    ]
    head = ["construction", "n", "random / target weights", "mean weight error",
            "largest output error / output norm", "accuracy, %", "target, %"]  # fmt: skip
    config = document["config"]
    hidden, seeds = " and ".join(map(str, config["hidden"])), config["seeds"]
    title = (
        f"**{config['data']}**, hidden widths {hidden}, {config['epochs']:g} epochs of the target, up to "
        f"{config['images']} test images, {seeds} random network{'s' if seeds > 1 else ''} each: "
        f"`python benchmarks/reproduce.py {name}`"
    )
    slopes = ", ".join(f"{rate['construction']} {rate['slope']:.2f}" for rate in document["rates"])
    under = (
        ""
        if len(rows) < 5
        else f"\n\nSlope of log error against the predicted one, 1 where they agree: {slopes}."
    )
    return f"{title}\n\n{markdown(head, rows)}{under}"


KINDS = {
    "theory": theory,
}
