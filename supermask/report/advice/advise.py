"""Findings of a document: the worst of each kind, and what could not be looked at."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supermask.report.advice.cases import Case, cases_of
from supermask.report.advice.commands import at_rates, is_relative, search_again, train_again
from supermask.report.advice.finding import Finding
from supermask.report.advice.rules import RULES
from supermask.report.formatting import percent
from supermask.report.results.rows import summary_rows
from supermask.report.results.verdict import LEARNED, nothing_learned

SOUND = (
    "Nothing stands out: no layer is dead or near collapse, masks moved and settled, the losses fit each "
    "other, and the densities are in the range of their methods."
)


@dataclass(frozen=True)
class Advice:
    """What to do next.

    Attributes:
        findings: The worst of each kind, the gravest kind first.
        unknown: Sentences about numbers that the results lack.
        runs: Runs that were looked at; controls are not.
    """

    findings: Sequence[Finding]
    unknown: Sequence[str]
    runs: int

    @property
    def summary(self) -> str:
        """One sentence."""
        if self.findings:
            count = len(self.findings)
            return f"{count} {'thing stands' if count == 1 else 'things stand'} out in {_runs(self.runs)}."
        if self.unknown:
            return f"Nothing stands out in what is known of {_runs(self.runs)}."
        return SOUND


def advise(document: Mapping[str, Any]) -> Advice:
    """What the numbers of compare, search, imp or anatomy say to do next.

    Args:
        document: What `results.json` holds.

    Raises:
        ValueError: It has no rows.
    """
    if not document.get("rows"):
        raise ValueError("the document has no rows to advise on; run the command to its end")
    cases = list(cases_of(document))
    worst: dict[str, Finding] = {}
    for finding in [
        *_chance(document, cases),
        *(found for case in cases for found in _of_case(document, case)),
    ]:
        known = worst.get(finding.kind)
        if known is None:
            worst[finding.kind] = finding
        else:
            larger = max(known, finding, key=lambda one: one.size)
            worst[finding.kind] = dataclasses.replace(larger, others=known.others + 1)
    return Advice(list(worst.values()), list(_unknown(document, cases)), len(cases))


def _of_case(document: Mapping[str, Any], case: Case) -> Iterator[Finding]:
    for rule in RULES:
        yield from rule(document, case)


def _chance(document: Mapping[str, Any], cases: Sequence[Case]) -> Iterator[Finding]:
    """All methods near what a guess or a random mask reaches."""
    if not cases:
        return
    best = max(cases, key=lambda case: case.row["test_accuracy"])
    reached, classes = best.row["test_accuracy"], best.classes
    guess = None if classes is None else 1 / classes
    by_guess = guess is not None and reached < guess + LEARNED
    if not by_guess and not (document.get("summary") and nothing_learned(summary_rows(document))):
        return
    beside = (
        f"a guess {percent(guess)} %" if guess is not None and by_guess else "a random mask about as much"
    )
    longer: dict[str, Any] = {"epochs": 3 * best.config.get("epochs", 10)}
    if best.is_search and best.config.get("val_fraction", 0.1):
        rates = [0.003, 0.01, 0.03, 0.1] if is_relative(best) else [0.03, 0.1, 0.3, 1.0]
        longer |= at_rates(best, lr_sweep=rates)
    again = search_again if best.is_search else train_again
    yield Finding(
        "near chance",
        1.0,
        f"The best run, {best.name}, reaches {percent(reached)} %, and {beside}.",
        "Nothing was learned, so that these results say nothing about methods. Train longer, at other rates.",
        again(document, best, "longer", **longer),
    )


def _unknown(document: Mapping[str, Any], cases: Sequence[Case]) -> Iterator[str]:
    def without(has: Any, among: Sequence[Case]) -> int:
        return sum(not has(case) for case in among)

    trained = [case for case in cases if case.row.get("steps")]
    searches = [case for case in trained if case.is_search]
    remedy = "the command that made these results, with a new --out, records them"
    if count := without(lambda case: case.layers is not None, cases):
        yield f"Dead units, layers and the number of classes of {_runs(count)} were not recorded; {remedy}."
    if count := without(lambda case: case.curve("mask_changed"), searches):
        yield f"How much of the mask changed was not recorded in {_runs(count)}; {remedy}."
    if count := without(lambda case: case.curve("val_accuracy"), trained):
        yield (
            f"Without validation accuracies of {_runs(count)} it is not known whether they still learned at "
            "the end, or learned too much; --val-fraction 0.1 gives them."
        )


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
