"""The findings in a few sentences, computed from the data and chosen without looking at the test split."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from supermask.report.summary import Line, command_of, lines_of
from supermask.report.text import bytes_text, density_text, percent, printable, ratio_text
from supermask.report.verdict import verdict


def headline(document: Mapping[str, Any]) -> str:
    """The findings as plain sentences, for the top of the page and the end of a terminal session.

    Raises:
        ValueError: The document is not one of compare, search or imp, or has no rows.
    """
    lines = lines_of(document)
    strong, dense = strong_pick(lines), dense_pick(lines)
    trained = trained_pick(lines, beside=strong)
    say = _Accuracy()
    sentences = []
    if strong:
        sentences.append(_strong_sentence(lines, strong, say))
    if dense:
        sentences.append(f"The trained dense network reaches {say(dense)}.")
    if dense and strong and (decided := verdict(document, lines, strong, dense)):
        sentences.append(decided)
    if trained:
        # Only `compare --methods imp` promises that the control has the very mask of the ticket.
        own_control = trained.method.name == "imp" or command_of(document) == "imp"
        sentences += _trained_sentences(lines, trained, say, own_control)
    if not sentences:
        best = best_pick(lines)
        sentences.append(f"{_named(best)} reaches {say(best)}.")
    if strong and strong.ratio and strong.ratio > 1:
        sentences.append(
            f"The strong ticket weighs {bytes_text(strong.ticket_bytes)}, the dense weights "
            f"{bytes_text(strong.dense_bytes)} ({ratio_text(strong.ratio)})."
        )
    return f"On {subject(document)}, {_lower_first(' '.join(sentences))}"


def subject(document: Mapping[str, Any]) -> str:
    """`<data> with <model>`."""
    config = document.get("config") or {}
    data, model = config.get("data", "unnamed data"), config.get("model", "an unnamed network")
    return f"{printable(data)} with {printable(model)}"


def dense_pick(lines: Sequence[Line]) -> Line | None:
    return next((line for line in lines if line.method.group == "dense"), None)


def strong_pick(lines: Sequence[Line]) -> Line | None:
    """The strong ticket to speak of: the best on the validation split."""
    strong = [line for line in lines if line.method.group == "strong"]
    return best_pick(strong) if strong else None


def trained_pick(lines: Sequence[Line], beside: Line | None = None) -> Line | None:
    """The trained ticket to speak of, at the density of the strong ticket that stands beside it.

    Where no strong ticket does: the sparsest that matches dense on validation, else the best there.

    Only the first trained method of the table is considered, which is IMP where there is IMP: the best of
    several methods would be no finding about any of them.
    """
    trained = [line for line in lines if line.method.is_trained]
    candidates = [line for line in trained if line.method == trained[0].method]
    if not candidates:
        return None
    if beside is not None:
        # One density for all: on another, a method would be set against its own best or worst point.
        return min(candidates, key=lambda line: abs(math.log(line.true_density / beside.true_density)))
    dense = dense_pick(lines)
    if dense is not None and dense.val_accuracy is not None:
        goal = dense.val_accuracy
        matching = [
            line for line in candidates if line.val_accuracy is not None and line.val_accuracy >= goal
        ]
        if matching:
            return min(matching, key=lambda line: line.true_density)
    return best_pick(candidates)


def best_pick(lines: Sequence[Line]) -> Line:
    """The best on the validation split; without one the densest, which needs no peeking at the test split."""
    if any(line.val_accuracy is None for line in lines):
        return max(lines, key=lambda line: line.true_density)
    return max(lines, key=lambda line: (line.val_accuracy, -line.true_density))


def spread(line: Line) -> str:
    """`3 seeds, 96.7 to 97.5`, or which seed it was."""
    return f"seed {line.seeds[0]}" if line.n == 1 else f"{line.n} seeds, {_range(line)}"


class _Accuracy:
    """Says a line's accuracy: at length the first time, then without what has been said."""

    def __init__(self) -> None:
        self.seeds: tuple[int, ...] | None = None

    def __call__(self, line: Line) -> str:
        text = f"{percent(line.mean)} %"
        if self.seeds is None:
            text += " test accuracy"
        if line.seeds != self.seeds:
            text += f" ({spread(line)})"
        elif line.n > 1:
            text += f" ({_range(line)})"
        self.seeds = line.seeds
        return text


def _strong_sentence(lines: Sequence[Line], strong: Line, say: _Accuracy) -> str:
    density = density_text(strong.true_density)
    text = f"An untrained subnetwork at density {density} ({strong.method.label}) reaches {say(strong)}"
    if control := _beside(lines, "random-mask-frozen", strong):
        # The control has the weights that edge-popup searches; another search may draw its own.
        weights = "the same frozen weights" if strong.method.name == "edge-popup" else "frozen weights"
        text += f"; a random mask on {weights} reaches {say(control)}"
    return f"{text}."


def _trained_sentences(lines: Sequence[Line], trained: Line, say: _Accuracy, own_control: bool) -> list[str]:
    text = f"{_named(trained)} reaches {say(trained)}"
    if own_control and (control := _beside(lines, "reinit", trained)):
        text += f"; its mask on newly drawn weights reaches {say(control)}"
    sentences = [f"{text}."]
    sparsest = min(
        (line for line in lines if line.method == trained.method), key=lambda line: line.true_density
    )
    if sparsest != trained:
        density = density_text(sparsest.true_density)
        sentences.append(f"The sparsest such ticket, at density {density}, reaches {say(sparsest)}.")
    return sentences


def _named(line: Line) -> str:
    return f"{line.method.label} at density {density_text(line.true_density)}"


def _range(line: Line) -> str:
    low, high = percent(line.min), percent(line.max)
    return f"all {low}" if low == high else f"{low} to {high}"


def _beside(lines: Sequence[Line], name: str, ticket: Line) -> Line | None:
    """The line of method `name` at the density of `ticket`."""
    same = (line for line in lines if line.method.name == name and line.density == ticket.density)
    return next(same, None)


def _lower_first(sentence: str) -> str:
    """For a sentence that goes on after a comma; abbreviations such as IMP keep their capitals."""
    return sentence if sentence[1:2].isupper() else sentence[:1].lower() + sentence[1:]
