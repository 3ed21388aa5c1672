"""IMP by every criterion and with every action: two rounds against NumPy, and what the command leaves."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

import supermask as sm
from supermask.cli import main
from supermask.data import load_data
from supermask.experiments import CompareConfig, ConfigError, ImpConfig
from supermask.experiments.compare.command import plan_compare
from supermask.experiments.execution.store import Store
from supermask.experiments.imp import plan_imp
from supermask.models import create_model
from supermask.prune import PRUNED, by_criterion, criterion_names, imp, round_counts
from supermask.prune.criteria import WEIGHED
from supermask.report.methods.catalogue import LONGEST_LABEL, methods_of
from supermask.weights.roles import masked

from .test_criteria import FORMULAS

STEPS, RATE, LR, ALPHA = 9, 0.4, 0.3, 2.0
WEIGHTS = ("0.weight", "2.weight")


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 5)).double()


def data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    return generator.normal(size=(12, 7)), generator.normal(size=(12, 5))


def train(model, mask, *, start, on_step, values=None):
    inputs, targets = map(torch.from_numpy, data())
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    sm.hold(optimizer, mask, model, values)
    for step in range(start, STEPS):
        optimizer.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        optimizer.step()
        on_step(step + 1)


class Reference:
    """The same in NumPy: its own derivatives, its own training under a mask, its own ranking."""

    def __init__(self, start: dict[str, np.ndarray]) -> None:
        self.start = start

    def trained(self, state, first, kept=None, held=None, stop_at=None):
        """State after gradient descent from step `first`; pruned weights stand at `held`."""
        (x, y), state = data(), {name: value.copy() for name, value in state.items()}
        for name in WEIGHTS if kept else ():
            state[name] = np.where(kept[name], state[name], held[name])
        for _ in range(first, STEPS if stop_at is None else stop_at):
            hidden = np.tanh(x @ state["0.weight"].T + state["0.bias"])
            out = hidden @ state["2.weight"].T + state["2.bias"]
            by_out = 2 * (out - y) / y.size
            by_sum = (by_out @ state["2.weight"]) * (1 - hidden**2)
            gradients = {
                "0.weight": by_sum.T @ x, "0.bias": by_sum.sum(0),
                "2.weight": by_out.T @ hidden, "2.bias": by_out.sum(0),
            }  # fmt: skip
            for name, gradient in gradients.items():
                moved = state[name] - LR * gradient
                state[name] = np.where(kept[name], moved, state[name]) if kept and name in kept else moved
        return state

    def survivors(self, criterion, initial, final, kept, counts):
        kind = next(
            name for name in FORMULAS if criterion in (name, f"{name}-same-sign", f"{name}-diff-sign")
        )
        found = {}
        for name in WEIGHTS:
            score = FORMULAS[kind](initial[name], final[name]).ravel()
            same = (np.sign(initial[name]) == np.sign(final[name])).ravel()
            last = ~same if criterion.endswith("same-sign") else same & criterion.endswith("diff-sign")
            places = np.flatnonzero(kept[name])
            places = places[np.lexsort((places, -score[places], last[places]))]
            chosen = np.zeros(score.size, bool)
            chosen[places[: counts[name]]] = True
            found[name] = chosen.reshape(kept[name].shape)
        return found

    def rounds(self, *, criterion, pruned="zero", signs=False, rewind="weights", rewind_to=0):
        early = self.trained(self.start, 0, stop_at=rewind_to)
        initial = self.start if rewind == "lr" else early
        state = self.trained(self.start, 0)
        kept = {name: np.ones_like(self.start[name], bool) for name in WEIGHTS}
        for number in (1, 2):
            final = {name: state[name] for name in WEIGHTS}
            counts = {n: round(self.start[n].size * (1 - RATE) ** number) for n in WEIGHTS}
            kept = self.survivors(criterion, initial, final, kept, counts)
            at = {
                "zero": lambda i, f: np.zeros_like(i),
                "final": lambda i, f: f,
                "init": lambda i, f: i,
                "init-unless-shrunk": lambda i, f: np.where(np.abs(f) < np.abs(i), 0, i),
            }[pruned]
            held = {name: at(initial[name], final[name]) for name in WEIGHTS}
            begin = dict(state if rewind == "lr" else early)
            if signs:
                begin |= {n: np.sign(initial[n]) * initial[n].std(ddof=1) for n in WEIGHTS}
            state = self.trained(begin, rewind_to, kept, held)
            yield kept, state


def compared(**options) -> None:
    model = network()
    reference = Reference({name: value.numpy().copy() for name, value in model.state_dict().items()})
    weighed = {"alpha": ALPHA} if options["criterion"].startswith(WEIGHED) else {}
    ours = imp(model, train, rounds=2, rate=RATE, **weighed, **options)
    next(ours)
    masks = []
    for found, (kept, state) in zip(ours, reference.rounds(**options), strict=True):
        masks.append(kept)
        for name in WEIGHTS:
            assert np.array_equal(found.mask[name].numpy(), kept[name]), (found.round, name)
        for name, value in model.state_dict().items():
            assert np.allclose(value.numpy(), state[name], rtol=1e-9, atol=1e-12), (found.round, name)
    assert len(masks) == 2 and all((masks[0][name] & ~masks[1][name]).any() for name in WEIGHTS)


@pytest.mark.parametrize("criterion", [name for name in criterion_names() if name != "random"])
def test_two_rounds_by_a_criterion_are_those_of_numpy(criterion):
    compared(criterion=criterion)


@pytest.mark.parametrize("rewind_to", [0, 4])
@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("pruned", PRUNED)
def test_two_rounds_with_an_action_are_those_of_numpy(pruned, signs, rewind_to):
    compared(criterion="magnitude-increase-same-sign", pruned=pruned, signs=signs, rewind_to=rewind_to)


@pytest.mark.parametrize("pruned", PRUNED)
def test_two_rounds_of_learning_rate_rewinding_are_those_of_numpy(pruned):
    compared(criterion="movement", pruned=pruned, rewind="lr", rewind_to=4)


def test_rounds_at_random_are_those_of_one_ranking():
    def masks(seed, **options):
        return [r.mask for r in imp(network(), train, rounds=3, criterion="random", seed=seed, **options)]

    ours, again, other = masks(0), masks(0), masks(1)
    whole = masks(0, rate=1 - 0.8**3)[1]
    for name in WEIGHTS:
        assert [int(m[name].sum()) for m in ours] == [
            round(m[name].numel() * 0.8**i) for i, m in enumerate(ours)
        ]
        assert torch.equal(ours[3][name], again[3][name]) and not torch.equal(ours[3][name], other[3][name])
        assert torch.equal(ours[3][name], whole[name])
    # Over seeds every weight stays equally often.
    values = {"0.weight": torch.zeros(6, 7)}
    draws = [by_criterion("random", values, values, {"0.weight": 25}, seed=seed) for seed in range(200)]
    often, share = torch.stack([draw["0.weight"].double() for draw in draws]).mean(0), 25 / 42
    assert (often - share).abs().max() < 5 * (share * (1 - share) / 200) ** 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "largest"}, "unknown criterion 'largest'; choose one of random, large-final"),
        ({"criterion": "random-same-sign"}, "unknown criterion"),
        (
            {"alpha": 2.0},
            "means nothing to the criterion large-final; leave it at 1, or take large-init-large",
        ),
        ({"criterion": "large-init-large-final", "alpha": 0.0}, "alpha must be a positive number, not 0.0"),
        ({"pruned": "nowhere"}, "unknown action 'nowhere'"),
        ({"signs": True, "rewind": "lr"}, "leave out signs, or rewind 'weights'"),
        ({"conv_rate": 0.1}, "has no convolutions"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_training(options, message):
    calls = []
    with pytest.raises(ValueError, match=message):
        next(imp(network(), lambda *a, **k: calls.append(1), rounds=1, **options))
    assert not calls


# The command.


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"scope": "global", "output_rate": 0.1}, r"--output-rate 0\.1: leave it out, or take --scope layer"),
        ({"scope": "global", "conv_rate": 0.1}, r"--conv-rate 0\.1: leave it out"),
        ({"criterion": "largest"}, "--criterion 'largest': unknown criterion"),
        ({"criterion": "movement", "alpha": 3.0}, r"--alpha 3\.0: alpha 3 means nothing"),
        ({"pruned": "there"}, "--pruned 'there': unknown action"),
        ({"signs": True, "rewind": "lr"}, "--signs True: with rewind 'lr'"),
        ({"pruned": "init", "reinit": True}, "--reinit True: leave it out, or take --pruned zero"),
    ],
)  # fmt: skip
def test_the_configuration_refuses_what_makes_no_sense(options, named):
    with pytest.raises(ConfigError, match=named):
        ImpConfig(out="x", **options)


def test_a_rate_for_convolutions_needs_some(digits):
    with pytest.raises(ConfigError, match=r"--conv-rate 0\.1: the network has no convolutions"):
        plan_imp(ImpConfig(out="x", conv_rate=0.1), digits)
    plan_imp(ImpConfig(out="x", conv_rate=0.1, model="conv-2", epochs=1), digits)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        # Three layers of 50,200 weights, of which each keeps one.
        ({"scope": "global", "rate": 0.9, "rounds": 8}, "take at most 4: round 5 would leave 1 weights to 3"),
        ({"rate": 0.9, "rounds": 8}, "take at most 5, or another --rate: round 6 would prune nothing"),
        ({"rate": 1e-6, "rounds": 1}, "take at most 0, or another --rate: round 1 would prune nothing"),
    ],
)  # fmt: skip
def test_rounds_end_where_there_is_nothing_to_prune(options, remedy, digits):
    with pytest.raises(ConfigError, match=f"--rounds {options['rounds']}: {remedy}"):
        plan_imp(ImpConfig(out="x", **options), digits)


@pytest.mark.parametrize("method", ["imp", "one-shot", "random", "snip", "early-bird"])
def test_a_global_ranking_has_a_weight_for_every_layer(method, digits):
    options = {"methods": (method,), "seeds": (0,), "scope": "global", "out": "x"}
    with pytest.raises(ConfigError, match=r"--densities 2e-05: take at least 6e-05: each of 3 layers keeps"):
        plan_compare(CompareConfig(densities=(2e-5,), **options), digits)
    plan_compare(CompareConfig(densities=(6e-5,), **options), digits)


def test_wrong_calls_of_the_command_end_with_two(tmp_path, capsys):
    call = ["imp", "--out", str(tmp_path / "out"), "--data-root", "/nowhere", "--data", "mnist"]
    assert main([*call, "--scope", "global", "--output-rate", "0.1"]) == 2
    assert "--output-rate 0.1" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_runs_of_magnitude_pruning_are_what_they_were(digits):
    spec = plan_imp(ImpConfig(out="x", rounds=1, epochs=1), digits).graph[1]
    assert spec.as_dict()["mask"].keys() == {"kind", "run", "keep"} and spec.mask.kind == "magnitude"
    assert spec.method == "imp" and "signs" not in spec.as_dict()["weights"]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("one-shot", {}),
        ("movement-diff-sign", {"criterion": "movement-diff-sign"}),
        ("random", {"criterion": "random"}),
        ("pruned-at-init-unless-shrunk", {"pruned": "init-unless-shrunk"}),
        ("kept-signs", {"signs": True}),
    ],
)
def test_one_round_is_the_run_of_the_comparison(method, options, digits):
    common = {"out": "x", "epochs": 1, "batch_size": 64, "seeds": (0,)}
    (row,) = plan_compare(CompareConfig(methods=(method,), densities=(0.3,), **common), digits).rows
    _, ticket = plan_imp(ImpConfig(rounds=1, rate=0.7, **common, **options), digits).graph
    # Their dense networks differ in what they save on the way; large-final is magnitude pruning.
    kind = "magnitude" if "criterion" not in options else "criterion"
    masks = [dataclasses.replace(spec.mask, run="", kind=kind) for spec in (row, ticket)]
    assert masks[0] == masks[1] and row.density == pytest.approx(ticket.density, abs=1e-4)
    same = {"method": "", "mask": row.mask, "density": 0.3}
    assert dataclasses.replace(row, **same) == dataclasses.replace(ticket, **same)


@pytest.mark.parametrize("together", ["0", "2"])
def test_the_command_does_what_the_rounds_say(together, tmp_path, digits):
    options = {
        "criterion": "small-init-small-final",
        "alpha": 0.5,
        "pruned": "init-unless-shrunk",
        "signs": True,
    }
    flags = ["--criterion", options["criterion"], "--alpha", "0.5", "--pruned", options["pruned"], "--signs"]
    more = ["--rewind-to", "3", "--rounds", "2", "--rate", "0.4", "--epochs", "1", "--seeds", "0", "1"]
    assert main(["imp", *flags, *more, "--together", together, "--out", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "results.json").read_text())
    store = Store(tmp_path / "runs")
    rows = [store.run(row["run"]) for row in document["rows"] if row["seed"] == 1]
    early = rows[0].ticket(3).weights()
    names = [info.name for info in masked(create_model("lenet-300-100", in_channels=1, image_size=8))]
    kept = {name: np.ones(early[name].shape, bool) for name in names}
    before = rows[0].ticket().weights()
    for number, run in enumerate(rows[1:], start=1):
        after = run.ticket().weights()
        for name in names:
            initial, final = early[name].numpy(), before[name].numpy()
            score = -np.maximum(0.5 * np.abs(final), np.abs(initial)).ravel()
            places = np.flatnonzero(kept[name])
            best = places[np.argsort(-score[places], kind="stable")[: round(score.size * 0.6**number)]]
            kept[name] = np.isin(np.arange(score.size), best).reshape(initial.shape)
            assert np.array_equal(run.mask()[name].numpy(), kept[name])
            held = np.where(np.abs(final) < np.abs(initial), 0, initial)
            assert np.array_equal(after[name].numpy()[~kept[name]], held[~kept[name]])
            # Training began at the signs: after these few steps most weights are still near the constant.
            near = np.median(np.abs(after[name].numpy()[kept[name]]))
            assert near == pytest.approx(initial.std(ddof=1), rel=0.2)
        before = after
    names_of = {row["method"] for row in document["rows"]} - {"dense"}
    assert names_of == {"imp-rewind-small-init-small-final-kept-signs-pruned-at-init-unless-shrunk"}
    page = (tmp_path / "report.html").read_text()
    assert "chosen by the criterion small-init-small-final" in page and "do not train but still count" in page


def test_every_variant_is_described():
    for criterion in ("", *(f"-{name}" for name in criterion_names() if name != "large-final")):
        for signs in ("", "-kept-signs"):
            for pruned in ("", *(f"-pruned-at-{action}" for action in PRUNED[1:])):
                for base in ("imp", "imp-rewind", "lr-rewind"):
                    name = f"{base}{criterion}{signs}{pruned}"
                    method = methods_of([name])[name]
                    assert method.group == "trained" and len(method.label) <= LONGEST_LABEL
                    assert name == base or criterion.removeprefix("-") in method.about
    assert methods_of(["imp-nonsense"])["imp-nonsense"].group == "other"


def test_the_reinit_control_of_signs_keeps_signs(digits):
    plan = plan_imp(ImpConfig(out="x", rounds=1, epochs=1, signs=True, reinit=True), digits)
    _, ticket, control = plan.rows
    same = {"method": "", "weights": ticket.weights, "mask": ticket.mask}
    assert dataclasses.replace(ticket, **same) == dataclasses.replace(control, **same)
    assert control.weights == dataclasses.replace(ticket.weights, seed=control.weights.seed)
    assert round_counts(masked(network()), 1, RATE)["0.weight"] == 25
