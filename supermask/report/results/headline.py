"""The findings in a few sentences, computed from the data and chosen without looking at the test split."""

from collections.abc import Mapping, Sequence
from typing import Any

from supermask.report.formatting import bytes_text, density_text, percent, printable, ratio_text
from supermask.report.results.best import best_row
from supermask.report.results.model import Results
from supermask.report.results.rows import SummaryRow
from supermask.report.results.verdict import verdict


def headline_of(results: Results) -> str:
    """The findings as plain sentences, for the top of the page and the end of a terminal session."""
    rows, picks = results.rows, results.picks
    say = _Accuracy()
    sentences = []
    if picks.strong:
        sentences.append(_strong_sentence(rows, picks.strong, say))
    if picks.dense:
        sentences.append(f"The trained dense network reaches {say(picks.dense)}.")
    if picks.dense and picks.strong and (decided := verdict(rows, results.runs, picks.strong, picks.dense)):
        sentences.append(decided)
    if picks.trained:
        # Only `compare --methods imp` promises that the control has the very mask of the ticket.
        own_control = picks.trained.method.name == "imp" or results.command == "imp"
        sentences += _trained_sentences(rows, picks.trained, say, own_control)
    if not sentences:
        best = best_row(rows)
        sentences.append(f"{_named(best)} reaches {say(best)}.")
    if picks.strong and picks.strong.ratio and picks.strong.ratio > 1:
        sentences.append(
            f"The strong ticket weighs {bytes_text(picks.strong.ticket_bytes)}, the dense weights "
            f"{bytes_text(picks.strong.dense_bytes)} ({ratio_text(picks.strong.ratio)})."
        )
    return f"On {subject(results.document)}, {_lower_first(' '.join(sentences))}"


def subject(document: Mapping[str, Any]) -> str:
    """`<data> with <model>`."""
    config = document.get("config") or {}
    data, model = config.get("data", "unnamed data"), config.get("model", "an unnamed network")
    return f"{printable(data)} with {printable(model)}"


def seed_range(row: SummaryRow) -> str:
    """`3 seeds, 96.7 to 97.5`, or which seed it was."""
    return f"seed {row.seeds[0]}" if row.n == 1 else f"{row.n} seeds, {_range(row)}"


class _Accuracy:
    """Says a row's accuracy: at length the first time, then without what has been said."""

    def __init__(self) -> None:
        self.seeds: tuple[int, ...] | None = None

    def __call__(self, row: SummaryRow) -> str:
        text = f"{percent(row.mean)} %"
        if self.seeds is None:
            text += " test accuracy"
        if row.seeds != self.seeds:
            text += f" ({seed_range(row)})"
        elif row.n > 1:
            text += f" ({_range(row)})"
        self.seeds = row.seeds
        return text


def _strong_sentence(rows: Sequence[SummaryRow], strong: SummaryRow, say: _Accuracy) -> str:
    density = density_text(strong.true_density)
    text = f"An untrained subnetwork at density {density} ({strong.method.label}) reaches {say(strong)}"
    if control := _beside(rows, "random-mask-frozen", strong):
        # The control has the weights that edge-popup searches; another search may draw its own.
        weights = "the same frozen weights" if strong.method.name == "edge-popup" else "frozen weights"
        text += f"; a random mask on {weights} reaches {say(control)}"
    return f"{text}."


def _trained_sentences(
    rows: Sequence[SummaryRow], trained: SummaryRow, say: _Accuracy, own_control: bool
) -> list[str]:
    text = f"{_named(trained)} reaches {say(trained)}"
    if own_control and (control := _beside(rows, "reinit", trained)):
        text += f"; its mask on newly drawn weights reaches {say(control)}"
    sentences = [f"{text}."]
    sparsest = min((row for row in rows if row.method == trained.method), key=lambda row: row.true_density)
    if sparsest != trained:
        density = density_text(sparsest.true_density)
        sentences.append(f"The sparsest such ticket, at density {density}, reaches {say(sparsest)}.")
    return sentences


def _named(row: SummaryRow) -> str:
    return f"{row.method.label} at density {density_text(row.true_density)}"


def _range(row: SummaryRow) -> str:
    low, high = percent(row.min), percent(row.max)
    return f"all {low}" if low == high else f"{low} to {high}"


def _beside(rows: Sequence[SummaryRow], name: str, ticket: SummaryRow) -> SummaryRow | None:
    """The row of method `name` at the density of `ticket`."""
    same = (row for row in rows if row.method.name == name and row.density == ticket.density)
    return next(same, None)


def _lower_first(sentence: str) -> str:
    """For a sentence that goes on after a comma; abbreviations such as IMP keep their capitals."""
    return sentence if sentence[1:2].isupper() else sentence[:1].lower() + sentence[1:]
