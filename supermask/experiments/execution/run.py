"""Execute one run: build the network, train or search, measure once on the test split, save.

A run that was interrupted goes on from its checkpoint and ends with the same bytes; a finished one is
not computed again.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from supermask.experiments.execution.context import Environment, RunContext
from supermask.experiments.execution.diagnosis import LOOKED_AT, network_facts
from supermask.experiments.execution.kinds import KINDS, RunOutcome
from supermask.experiments.execution.store import Run, Store
from supermask.experiments.spec import RunSpec
from supermask.masks import density
from supermask.models.parallel import bytes_beyond_one
from supermask.tickets.ticket import Ticket, dense_bytes


def execute(
    spec: RunSpec, store: Store, environment: Environment, on_step: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Bring a run to its end and return its result; `on_step` gets the number of steps done.

    Of several ranks the main one decides what there is to do and writes; all return the same.
    """
    ranks, run = environment.ranks, store.run(spec.id)
    if (done := ranks.from_main(lambda: store.open(spec).result)) is not None:
        return done
    with run.lock() if ranks.main else nullcontext():
        if (done := ranks.from_main(lambda: _left_by_others(run))) is not None:
            return done
        return _run_to_end(RunContext(spec, store, environment, run, on_step))


def _left_by_others(run: Run) -> dict[str, Any] | None:
    """The result, if another process finished the run meanwhile; what a killed one left is swept away."""
    run.sweep()
    return run.result


def _run_to_end(context: RunContext) -> dict[str, Any]:
    spec, ranks = context.spec, context.environment.ranks
    outcome = KINDS[spec.kind](context)
    ranks.agree(context.model.state_dict())
    nothing: dict[str, float | None] = {"accuracy": None, "loss": None}
    test = context.evaluate(context.data.test) if outcome.test else nothing
    val = context.evaluate(context.val_split) if len(context.val_split) else None
    return ranks.from_main(lambda: _finish(context, outcome, test, val))


def _finish(
    context: RunContext,
    outcome: RunOutcome,
    test: dict[str, float | None],
    val: dict[str, float | None] | None,
) -> dict[str, Any]:
    """Write ticket and result."""
    spec, run = context.spec, context.run
    found: dict[str, Any] = {}
    if outcome.ticket:
        mask = {} if outcome.whole else outcome.mask
        found = network_facts(context.model, mask, context.training_images(LOOKED_AT))
        found["classes"] = context.data.num_classes
        Ticket.from_model(context.model, mask, provenance=context.provenance()).save(run.ticket_path())
        if outcome.whole:
            run.write_mask(outcome.mask)
    parents = [context.store.run(id).result or {} for id in spec.needs]
    return run.finish(
        {
            "run": spec.id,
            "method": spec.method,
            "density": density(outcome.mask),
            "seed": spec.seed,
            "test_accuracy": test["accuracy"],
            "test_loss": test["loss"],
            "val_accuracy": val["accuracy"] if val else None,
            "steps": spec.steps,
            "total_steps": spec.steps + max((p.get("total_steps", 0) for p in parents), default=0),
            "seconds": round(outcome.progress.seconds, 3),
            "ticket_bytes": run.ticket_path().stat().st_size if outcome.ticket else None,
            "dense_bytes": dense_bytes(context.model) - bytes_beyond_one(context.model),
            **found,
            **outcome.facts,
            **({"together": size} if (size := outcome.progress.together) > 1 else {}),
            **({"ranks": size} if (size := context.environment.ranks.size) > 1 else {}),
        }
    )
