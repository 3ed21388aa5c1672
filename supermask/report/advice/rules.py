"""The rules: from one run to findings. A rule that lacks its numbers says nothing; the advice says which.

The thresholds were set on searches over scikit-learn's digits with LeNet-300-100, thirty epochs each (named
where they decide), and by arithmetic where there is any. They choose what is worth a look, and nothing else
depends on them.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from supermask.models.parallel import OPTION as PARALLEL
from supermask.report.advice.cases import Case
from supermask.report.advice.commands import at_rates, is_relative, search_again, train_again
from supermask.report.advice.finding import Finding
from supermask.report.formatting import count_text, density_text, percent
from supermask.search import SEARCHES
from supermask.search.description import DESCRIPTIONS

DEAD = 0.4
"""Share of a layer's units that is dead on data. Sound searches had up to 0.32 of a hidden layer; those that
had lost accuracy to it 0.49 and more."""
PER_UNIT = 3.0
"""Kept weights per unit of a layer. If a random mask keeps m on average, about exp(-m) of the units have
none: 5 % at 3, where chance alone begins to take units away."""
RISE = 1.25
"""Validation loss at the end over its least. Sound searches ended at up to 1.10 of it, on 144 images."""
LEAST_LOSS = 0.01
"""A validation loss below it counts as this large, for right answers may rise from a loss of nothing."""
UNLEARNED = 0.3
"""Training loss at the end over ln(classes), the loss of a guess. Sound searches ended at 0.01; those whose
rate, scale or density was wrong by far at 0.37 and more."""
STILL = 0.05
"""Share of the kept weights that changed in the whole search. Sound searches changed 0.13 and more; one with
a hundredth of the rate 0.035, and it learned little."""
UNSETTLED = 0.02
"""Share of the kept weights that changed between the last two entries of the learning curve, a twentieth of
the search. Sound searches ended below 0.005, one with ten times the rate and no schedule at 0.06."""
RISING = 0.01
"""Gain in validation accuracy from before the last quarter of a training to its end. Sound searches of thirty
epochs gained up to 0.007, one of three epochs 0.023."""
STORED = 0.5
"""Bytes of a strong ticket over those of the dense weights. One bit per weight is 1/32 of float32; a ticket
that has to store its weights is larger than half."""

Rule = Callable[[Mapping[str, Any], Case], Iterator[Finding]]


def dead_units(document: Mapping[str, Any], case: Case) -> Iterator[Finding]:
    """Units that no example gives a gradient."""
    known = [layer for layer in case.layers or () if layer["dead"] is not None]
    worst = max(known, key=lambda layer: layer["dead"] / layer["units"], default=None)
    if worst is None or worst["dead"] < DEAD * worst["units"]:
        return
    share = worst["dead"] / worst["units"]
    changes, remedy = _for_dead_units(case)
    command = search_again if case.is_search else train_again
    yield Finding(
        "dead units",
        share / DEAD,
        f"{case.name}: {worst['dead']} of {worst['units']} units of {worst['layer']} are dead on data: no "
        f"training image gives them a gradient.",
        f"Their weights do nothing and cannot learn to do something, so that the layer is "
        f"{percent(1 - share, 0)} % as wide as it looks. {remedy}",
        command(document, case, "dead-units", **changes),
    )


def _for_dead_units(case: Case) -> tuple[dict[str, Any], str]:
    if not case.is_search:
        return {"lr": case.asked("lr") / 10}, "A smaller rate kills fewer."
    if case.config.get("rescale") is False and _can_rescale(case):
        return {"rescale": True}, "Without rescaling signals shrink from layer to layer; try it with."
    if _thinnest(case) is not None:
        return {
            "distribution": "erk"
        }, "They go with the layer near collapse; ERK densities spare small layers."
    if (turned := sum(case.curve("mask_changed"))) > 1:
        text = f"The mask was turned over {turned:.1f} times; a smaller rate kills fewer."
        return at_rates(case, lr=_rate_of(case) / 10), text
    other = "kaiming_normal" if case.asked("init") != "kaiming_normal" else "signed_constant"
    return {"init": other}, "Try another draw of the frozen weights."


def _thinnest(case: Case) -> Mapping[str, Any] | None:
    """The masked layer with the fewest kept weights for each unit, if that is few."""
    masked = [layer for layer in case.layers or () if layer["kept"] < layer["weights"]]
    worst = min(masked, key=lambda layer: layer["kept"] / layer["units"], default=None)
    return worst if worst is not None and worst["kept"] < PER_UNIT * worst["units"] else None


def collapse(document: Mapping[str, Any], case: Case) -> Iterator[Finding]:
    """Layers with hardly a weight for each unit."""
    worst = _thinnest(case)
    if worst is None:
        return
    mean = worst["kept"] / worst["units"]
    density = density_text(worst["kept"] / worst["weights"])
    measured = (
        f"{case.name}: {worst['layer']} has density {density}, {mean:.2g} kept weights for each of its "
        f"{worst['units']} units, and {worst['empty']} units without any."
    )
    why = "A layer without weights cuts the network in two, and one with few hands on little. "
    if not case.is_search:
        scope = "layerwise" if case.config.get("scope") == "global" else "global"
        why += f"Rank the weights {'by layer' if scope == 'layerwise' else 'over the whole network'} instead."
        command = train_again(document, case, "collapse", scope=scope)
    elif case.config.get("distribution") == "erk":
        more = min(1.0, 2 * case.row["density"])
        why += "Keep twice as many."
        command = search_again(document, case, "collapse", density=more)
    else:
        why += "ERK densities spare the small layers."
        command = search_again(document, case, "collapse", distribution="erk")
    yield Finding("layer near collapse", PER_UNIT / max(mean, 1e-9), measured, why, command)


def fit_of_data(document: Mapping[str, Any], case: Case) -> Iterator[Finding]:
    """Training against validation loss."""
    train, val = case.curve("train_loss"), case.curve("val_loss")
    again = search_again if case.is_search else train_again
    least = max(min(val, default=0.0), LEAST_LOSS)
    smoothed = case.config.get("label_smoothing", 0.0)
    guess = math.log(case.classes) if case.classes and not smoothed else math.inf  # the loss of one
    unlearned = train and train[-1] > UNLEARNED * guess
    risen = val and val[-1] > RISE * least and train[-1] < val[-1] and (_late_gain(case, val) or 0.0) >= 0
    if risen and not unlearned and not _unsettled(case):
        best = val.index(min(val))
        augment = "shift" if case.config.get("data") in ("digits", "mnist") else "crop-flip"
        changes = {"augment": augment}
        remedy = f"Augment the images ({augment})."
        if case.config.get("augment", "none") != "none":
            changes, remedy = {"epochs": case.config.get("epochs", 10) / 2}, "Train for half as long."
        yield Finding(
            "overfitting",
            val[-1] / least / RISE,
            f"{case.name}: the validation loss rose from {min(val):.3f} at step "
            f"{case.points[best]['step']:,} to {val[-1]:.3f} at the end, while the training loss is "
            f"{train[-1]:.3f}.",
            f"The network learns its training images and nothing more. {remedy}",
            again(document, case, "overfitting", **changes),
        )
    if unlearned:
        yield Finding(
            "underfitting",
            train[-1] / guess / UNLEARNED,
            f"{case.name}: the training loss ends at {train[-1]:.3f}, and a guess among {case.classes} "
            f"classes has {guess:.3f}.",
            "The training images themselves are not learned, so that better generalization would not help. "
            "Train three times as long.",
            again(document, case, "underfitting", epochs=3 * case.config.get("epochs", 10)),
        )


def movement(document: Mapping[str, Any], case: Case) -> Iterator[Finding]:
    """How much of the mask changes: too little in all, or too much at the end."""
    changed = case.curve("mask_changed") if case.is_search else []
    if not changed or case.row["density"] == 1:  # a mask that keeps all cannot change
        return
    total, rate = sum(changed), _rate_of(case)
    if total < STILL:
        yield Finding(
            "mask stands still",
            STILL / max(total, 1e-9),
            f"{case.name}: {_share(total)} of the kept weights changed in the whole search"
            f"{_per_epoch(case, total, case.points[-1]['step'])}, at the rate {rate:g}.",
            "The mask is nearly the random one that it began with: first scores are large beside what the "
            "rate moves them by. Larger rates move them.",
            _with_rates(document, case, "rate", [rate * factor for factor in _larger(case)]),
        )
    elif _unsettled(case):
        constant = case.config.get("schedule") == "constant"
        yield Finding(
            "mask never settled",
            changed[-1] / UNSETTLED,
            f"{case.name}: {_share(changed[-1])} of the kept weights changed in the last "
            f"{_last_steps(case):g} of {case.points[-1]['step']:,} steps"
            f"{_per_epoch(case, changed[-1], _last_steps(case))}.",
            "The mask that is kept is a moment of a search that still jumps. "
            + ("Let the rate go to zero." if constant else "Smaller rates settle."),
            search_again(document, case, "schedule", schedule="cosine")
            if constant
            else _with_rates(document, case, "rate", [rate / 10, rate / 3, rate]),
        )


def scale_of_weights(document: Mapping[str, Any], case: Case) -> Iterator[Finding]:
    """Frozen weights that are not rescaled for their density, or do not follow from a seed."""
    density = case.row["density"]
    if case.is_search and case.config.get("rescale") is False and density < 1 and _can_rescale(case):
        layers = len(case.layers) if case.layers else None
        through = f", {density**layers:.2g} through {layers} layers" if layers else ""
        yield Finding(
            "no rescaling",
            1 / density,
            f"{case.name}: the weights are not scaled by 1/√density, so that a layer passes on "
            f"{density_text(density)} of the variance{through}.",
            "Without norms signals and gradients vanish with the depth; behind norms it makes no difference.",
            search_again(document, case, "rescale", rescale=True),
        )
    size, dense = case.row.get("ticket_bytes"), case.row.get("dense_bytes")
    if case.is_search and size and dense and size > STORED * dense * _per_connection(case):
        yield Finding(
            "weights not from a seed",
            size / dense / STORED,
            f"{case.name}: the ticket takes {count_text(size)} bytes, the dense weights {count_text(dense)}.",
            "A strong ticket is a seed and a bit per weight; this one stores its weights, because they were "
            "not drawn by randomize_ before the search, or something changed them after it. A command draws "
            "them itself:",
            search_again(document, case, "drawn"),
        )


def density_range(document: Mapping[str, Any], case: Case) -> Iterator[Finding]:
    """Densities that are all outside of where the method is known to work best."""
    known = DESCRIPTIONS[case.method.name].best_at if case.method.name in DESCRIPTIONS else None
    tried = [row["density"] for row in document["rows"] if row["method"] == case.method.name]
    if not case.is_search or known is None or any(known[0] <= density <= known[1] for density in tried):
        return
    (low, high), density = known, case.row["density"]
    yield Finding(
        "density out of range",
        max(low / density, density / high),
        f"{case.name}: {case.method.label} is known to work best at densities from {low:g} to {high:g}.",
        "The fewer weights are kept, the fewer subnetworks there are to choose among, and none at density 1. "
        "See what its best range gives before judging the method.",
        search_again(document, case, "density", density=round((low + high) / 2, 3)),
    )


def budget(document: Mapping[str, Any], case: Case) -> Iterator[Finding]:
    """Accuracy that still rises at the end."""
    values, losses = case.curve("val_accuracy"), case.curve("val_loss")
    gained, lost = _late_gain(case, values), _late_gain(case, losses)
    if gained is not None and gained >= RISING and (lost is None or lost < 0):
        again = search_again if case.is_search else train_again
        yield Finding(
            "budget too small",
            gained / RISING,
            f"{case.name}: validation accuracy rose by {100 * gained:.1f} points in the last quarter "
            f"of the training, to {percent(values[-1])} %.",
            "It was stopped while it was learning. Train twice as long.",
            again(document, case, "longer", epochs=2 * case.config.get("epochs", 10)),
        )


def _late_gain(case: Case, curve: list[float]) -> float | None:
    """What a curve gained in the last quarter of the steps, by means of three points; None for too few."""
    steps = [point["step"] for point in case.points]
    before = [index for index, step in enumerate(steps) if step <= 0.75 * steps[-1]][-3:]
    if not curve or not before or len(curve) - before[-1] <= 3:
        return None
    return sum(curve[-3:]) / 3 - sum(curve[index] for index in before) / len(before)


RULES: tuple[Rule, ...] = (
    collapse,
    dead_units,
    movement,
    scale_of_weights,
    fit_of_data,
    budget,
    density_range,
)
"""In the order in which findings are named: what breaks a network first."""


def _with_rates(document: Mapping[str, Any], case: Case, tag: str, rates: list[float]) -> str:
    """A search that picks among rates on validation; the second of them where there is nothing to pick by."""
    rounded = [float(f"{rate:.3g}") for rate in rates]
    if case.config.get("val_fraction", 0.1):
        return search_again(document, case, tag, **at_rates(case, lr_sweep=rounded))
    return search_again(document, case, tag, **at_rates(case, lr=rounded[1]))


def _larger(case: Case) -> list[float]:
    """Factors to try on a rate that moves nothing; relative steps are in units of the scores."""
    return [1, 3, 10, 30] if is_relative(case) else [1, 10, 100, 1000]


def _rate_of(case: Case) -> float:
    """The rate of a search, as recorded or, in older results, from its own recipe or what was asked for."""
    if "lr" in case.row:
        return float(case.row["lr"])
    own = SEARCHES[case.method.name].recipe if case.method.name in SEARCHES else {}
    if case.command != "search" and case.config.get("own_recipes", True) and "lr" in own:
        return float(own["lr"])
    return float(case.asked("lr") or 0.1)


def _can_rescale(case: Case) -> bool:
    search = SEARCHES.get(case.method.name)
    return search is not None and search.rescale_density(0.5) is not None


def _per_connection(case: Case) -> int:
    """Weights of a connection, of which a ticket has a bit each; the dense weights count their sum."""
    count = str((case.config.get("model_args") or {}).get(PARALLEL, 1))
    return int(count) if count.isdecimal() else 1


def _share(value: float) -> str:
    return f"{100 * value:.2g} %"


def _unsettled(case: Case) -> bool:
    changed = case.curve("mask_changed") if case.is_search else []
    return bool(changed) and changed[-1] > UNSETTLED


def _last_steps(case: Case) -> float:
    """Steps between the last two entries of the learning curve."""
    ends = [0.0, *(point["step"] for point in case.points)]
    return ends[-1] - ends[-2]


def _per_epoch(case: Case, value: float, steps: float) -> str:
    """`, 0.3 % per epoch`, where the length of an epoch is known."""
    if not case.steps_per_epoch or not steps:
        return ""
    return f", {_share(value * case.steps_per_epoch / steps)} per epoch"
