"""Damaged and forged tickets of every kind: none is loaded as another one, and only TicketError is raised."""

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

BENCHMARKS = str(Path(__file__).parents[1] / "benchmarks")
KINDS = ("strong", "bits", "trained", "dense", "varied", "tables", "padded")
EXAMPLES, BATCH = 10, 100  # 10,000 mutations in all: what Hypothesis draws is the seed of a batch
QUIET = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def mutations() -> Iterator:
    """The script that tries a million."""
    sys.path.insert(0, BENCHMARKS)
    try:
        import ticket_mutations

        yield ticket_mutations
    finally:
        sys.path.remove(BENCHMARKS)
        sys.modules.pop("ticket_mutations", None)


@pytest.fixture(scope="module")
def mutators(mutations, tmp_path_factory) -> dict:
    tickets = mutations.tickets()
    assert tuple(tickets) == KINDS
    return {kind: mutations.Mutator(tickets[kind], tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@QUIET
@given(seed=st.integers(0, 2**32))
def test_damage_is_refused(mutators, kind, seed):
    rng = np.random.default_rng(seed)
    ends = [mutators[kind].damage(rng) for _ in range(BATCH)]
    assert ends.count("refused") > BATCH / 2


@pytest.mark.parametrize("kind", KINDS)
@QUIET
@given(seed=st.integers(0, 2**32))
def test_forgery_is_refused_or_a_sound_ticket(mutators, kind, seed):
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ends = [mutators[kind].forge(rng) for _ in range(BATCH // 4)]
    assert ends.count("refused") > len(ends) / 3


@pytest.mark.parametrize("kind", KINDS)
@QUIET
@given(data=st.data())
def test_a_flip_of_any_bit_is_refused(mutations, mutators, kind, data):
    mutator = mutators[kind]
    bits = data.draw(st.lists(st.integers(0, 8 * len(mutator.data) - 1), min_size=40, max_size=60))
    counts = mutations.bit_flips(mutator, bits)
    assert sum(counts.values()) == len(bits) and set(counts) <= {"refused", "in the padding"}


@pytest.mark.slow
def test_every_bit_of_a_small_ticket(mutations, tmp_path):
    """Each of them once: a Linear of three weights, and its header."""
    import torch

    import supermask as sm

    ticket = sm.EdgePopup(sm.randomize_(torch.nn.Linear(3, 1)), density=0.4, lr=0.1).ticket()
    mutator = mutations.Mutator(ticket, tmp_path)
    counts = mutations.bit_flips(mutator, list(range(8 * len(mutator.data))))
    assert counts["refused"] + counts["in the padding"] == 8 * len(mutator.data)
    assert counts["in the padding"] <= 7 * 8


def test_the_page_of_the_format_says_what_was_tried():
    root = Path(__file__).parents[1]
    result = json.loads((root / "benchmarks" / "results" / "ticket-mutations.json").read_text())
    assert [row["ticket"] for row in result["rows"]] == list(KINDS) and result["mutations"] > 900_000
    assert result["loaded as another ticket"] == result["exceptions other than TicketError"] == 0
    assert f"{result['mutations']:,} times" in (root / "docs" / "ticket-format.md").read_text()
