"""What searches refuse, a command refuses with exit code 2: before data are read, or at planning."""

import shlex
from dataclasses import replace

import pytest
import torch

from supermask.cli import main
from supermask.cli import run as commands
from supermask.data import load_data
from supermask.experiments import CompareConfig, ConfigError, SearchConfig
from supermask.experiments.compare.command import all_methods, plan_compare
from supermask.experiments.errors import RefusedError
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.run import execute
from supermask.experiments.execution.store import Store
from supermask.experiments.runs import rescaling
from supermask.experiments.search import plan_search
from supermask.experiments.searches import check_search
from supermask.experiments.spec import MaskSource, OptimizerSpec
from supermask.masks import allocate
from supermask.search import SEARCHES

SEARCH = (
    # Names and types.
    ("--method-args rankin=raw", "'rankin=raw': edge-popup with sgd has no rankin; it has"),
    ("--method-args rankin=raw", "; did you mean ranking?"),
    ("--method zhou --method-args foo=1", "zhou with adam has no foo; it has step_size, density_schedule,"),
    ("--method concrete --method-args relaxation=gaussian", "concrete with adam has no relaxation"),
    ("--method-args lr=3", "'lr=3': lr has a flag of its own"),
    ("--method-args exclude=fc1", "exclude is for the library in Python"),
    ("--method-args maximize=true", "has no maximize"),
    ("--method biprop --optimizer adam --method-args amsgrad=no", "amsgrad takes true or false"),
    (
        "--method biprop --optimizer adam --method-args betas=3",
        "--method-args 'betas=3': Adam does not accept",
    ),
    ("--method gem-miner --method-args penalty=nan", "'penalty=nan': penalty takes a finite number"),
    ("--method iterand --method-args period=2.5", "period takes a whole number"),
    # Values.
    ("--method-args ranking=abs", "'ranking=abs': ranking must be one of magnitude, raw, not 'abs'"),
    ("--method-args schedule_steps=5", "give density_schedule='cubic'"),
    ("--method-args density_schedule=cubic initial_density=0.2", "'initial_density=0.2': initial_density is"),
    ("--method-args density_schedule=linear", "must be one of constant, cubic, not 'linear'"),
    ("--method-args dampening=0.5 --nesterov", "'dampening=0.5': Nesterov momentum requires"),
    ("--nesterov --optimizer adam", "--nesterov True: leave it out: only sgd has it, not adam"),
    ("--method zhou --density 1", "--density 1.0: density is where the probabilities of zhou start"),
    ("--method zhou --rescale", "--rescale True: leave it out: zhou scales its layers by itself"),
    (
        "--method zhou --method-args score_init=kaiming_normal",
        "zhou draws its first scores in a way of its own",
    ),
    ("--method gem-miner --method-args period=20", "'period=20': a search of 10 epochs ends before"),
    ("--method gem-miner --method-args penalty=-1", "must not be negative, not -1"),
    ("--method iterand --method-args rate=2 period=5", "--method-args 'rate=2': rate must lie in [0, 1]"),
    ("--method frozen --method-args pruned=0.9", "'pruned=0.9': at density 0.3, pruned must lie in [0, 0.7]"),
    ("--method frozen --method-args layout=2:4", "layout must be one of uniform, erk, epl, not '2:4'"),
    ("--method frozen --method-args ranking=raw", "leaves no room for ranking='raw'"),
    ("--method l0-gates --method-args gates=channel", "gates must be one of weight, neuron, not 'channel'"),
    ("--method concrete --method-args temperature=0 slack=1", "'temperature=0': temperature must be above 0"),
    ("--method concrete --method-args objective=kl --label-smoothing 0.1", "leave --label-smoothing 0.1 out"),
    # Distributions.
    ("--method zhou --distribution erk", "--distribution 'erk': the density of zhou emerges"),
    ("--method gem-miner --distribution global", "--distribution 'global': the density of gem-miner emerges"),
    (
        "--method frozen --distribution 2:4 --density 0.5",
        "leaves no room for distribution='2:4'; use uniform",
    ),
    ("--method l0-gates --distribution 2:4 --density 0.5", "so that distribution='2:4' cannot hold"),
    ("--method concrete --distribution 2:4 --density 0.5", "so that distribution='2:4' cannot hold"),
    (
        "--method signed-supermask --distribution erk --method-args fixed_threshold=true",
        "'fixed_threshold=True'",
    ),
)
COMPARE = (
    (
        "--methods zhou edge-popup --distribution erk",
        "cannot hold; leave it out. Or leave zhou out of --methods",
    ),
    ("--methods gem-miner-fine-tuned --distribution global", "Or leave gem-miner-fine-tuned out"),
    ("--methods frozen --distribution 2:4 --densities 0.5", "--distribution '2:4': the random pattern"),
    (
        "--methods concrete --distribution 2:4 --densities 0.5",
        "--distribution '2:4': concrete leaves the gates",
    ),
    ("--methods zhou --densities 1 --search-lr 0.1 --no-own-recipes", "--densities 1.0: density is where"),
    (
        "--methods zhou --no-own-recipes",
        "--methods 'zhou': give --search-lr with it: it has no default learning rate",
    ),
    (
        "--methods random-mask-frozen --search-args penalty=1",
        "--search-args 'penalty=1': edge-popup with sgd has",
    ),
    ("--methods gem-miner --search-args period=40", "--search-args 'period=40': a search of 30 epochs"),
    ("--nesterov --optimizer adam --search-optimizer adam", "only sgd has it, not adam"),
    ("--methods all --search-args typo=1", "'typo=1': "),
    ("--methods dense --search-args penalty=1", "'penalty=1': leave it out: none of --methods is a search"),
    ("--methods dense --filters conv1=0.5", "none of --methods prunes filters"),
    ("--methods filters-l1 --filters fc1=abc", "--filters 'fc1=abc': take a fraction in (0, 1]"),
    ("--methods filters-l1 --filters fc1=2", "--filters 'fc1=2': take a fraction in (0, 1]"),
    # Schedules.
    ("--methods dense --decay 0.5", "--decay 0.5: take --schedule multistep with it"),
    ("--methods dense --milestones 1", "--milestones 1.0: take --schedule multistep with it"),
    ("--methods dense --schedule multistep", "--schedule 'multistep': give the epochs of its --milestones"),
)
LINES = [(f"search {flags}", message) for flags, message in SEARCH]
LINES += [(f"compare {flags}", message) for flags, message in COMPARE]
LINES += [("anatomy --methods zhou --distribution erk", "the density of zhou emerges")]


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.mark.parametrize(("line", "message"), LINES, ids=[line for line, _ in LINES])
def test_a_wrong_call_ends_before_data_are_read(line, message, tmp_path, capsys, monkeypatch):
    def read(*_):
        raise AssertionError("data were read")

    monkeypatch.setattr(commands, "dataset", read)
    assert main([*shlex.split(line), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_what_depends_on_the_network_or_its_steps_is_refused_when_runs_are_planned(digits):
    epl = {"layout": "epl", "pruned": 0.6, "locked": 0.25}
    with pytest.raises(ConfigError, match=r"--method-args 'layout=epl': fc1\.weight keeps .* 'epl' locks"):
        plan_search(SearchConfig(method="frozen", method_args=epl, out="x"), digits)
    long = {"density_schedule": "cubic", "schedule_steps": 200}
    with pytest.raises(
        ConfigError, match=r"'schedule_steps=200': schedule_steps=200 is more than the 20 steps"
    ):
        plan_search(SearchConfig(method_args=long, epochs=2, out="x"), digits)
    one_layer = {"shapes": {"fc.weight": (10, 64)}, "steps": 9, "steps_per_epoch": 3}
    neurons = MaskSource(kind="search", density=0.5, options={"gates": "neuron"})
    with pytest.raises(RefusedError, match=r"fc\.weight is the only one; use gates='weight'") as caught:
        check_search("l0-gates", OptimizerSpec(), neurons, **one_layer)
    assert (caught.value.field, caught.value.value) == ("options", "gates=neuron")


@pytest.mark.parametrize("method", sorted(SEARCHES))
def test_a_search_that_is_tried_leaves_no_trace(method):
    before = torch.get_rng_state()
    check_search(
        method, OptimizerSpec(), MaskSource(kind="search", density=0.003), steps=90, steps_per_epoch=9
    )
    assert torch.equal(torch.get_rng_state(), before)


EMERGENT = {"zhou", "gem-miner", "gem-miner-fine-tuned"}
NO_GROUPS = {"frozen", "l0-gates", "concrete", "concrete-fine-tuned"}


@pytest.mark.parametrize(
    ("distribution", "density", "out"),
    [("uniform", 0.3, set()), ("erk", 0.3, EMERGENT), ("2:4", 0.5, EMERGENT | NO_GROUPS)],
)
def test_all_methods_leave_out_what_cannot_hold_the_distribution(distribution, density, out, digits):
    config = CompareConfig(
        methods=("all",), densities=(density,), seeds=(0,), distribution=distribution, epochs=2, out="x"
    )
    plan = plan_compare(config, digits)
    assert set(plan.skipped) == {*out, "early-bird-channels"}
    assert all(f"distribution={distribution!r}" in plan.skipped[method] for method in out)
    assert {row.method for row in plan.rows} == set(all_methods()) - set(plan.skipped)
    searches = {row.method: row.mask.distribution for row in plan.rows if row.kind == "search"}
    own = {"concrete": "global"} if distribution == "uniform" else {}
    assert searches == {method: own.get(method, distribution) for method in SEARCHES if method not in out}


@pytest.mark.parametrize("method", ["l0-gates", "concrete"])
def test_gates_spread_as_they_are_asked_to(method, digits, tmp_path):
    config = CompareConfig(
        methods=(method,), densities=(0.2,), seeds=(0,), distribution="erk", epochs=0.2, out="x"
    )
    (row,) = plan_compare(config, digits).rows
    execute(row, Store(tmp_path), Environment())
    mask = Store(tmp_path).run(row.id).ticket().mask()
    expected = allocate({name: tuple(kept.shape) for name, kept in mask.items()}, 0.2, "erk")
    assert {name: int(kept.sum()) for name, kept in mask.items()} == expected
    assert expected != allocate({name: tuple(kept.shape) for name, kept in mask.items()}, 0.2)


def test_a_schedule_from_half_reaches_the_search(digits, tmp_path):
    (tmp_path / "c.toml").write_text("method_args = {density_schedule = 'cubic', initial_density = 0.5}\n")
    common = "search --method biprop --density 0.1 --epochs 0.5 --batch-size 64"
    flags = "--method-args density_schedule=cubic initial_density=0.5"
    for out, more in (("file", f"--config {tmp_path / 'c.toml'}"), ("flags", flags)):
        assert main(shlex.split(f"{common} {more} --out {tmp_path / out}")) == 0
    ran = [set(path.name for path in (tmp_path / out / "runs").iterdir()) for out in ("file", "flags")]
    assert ran[0] == ran[1]
    mask = MaskSource(kind="search", options={"density_schedule": "cubic", "initial_density": 0.5})
    plain = SearchConfig(method="biprop", density=0.1, lr=0.4, out="x")
    asked = replace(plain, method_args=mask.options)
    assert plan_search(asked, digits).rows[0].mask.options == mask.options


@pytest.mark.parametrize(
    ("method", "density", "scaled"),
    [("edge-popup", 0.02, 0.02), ("zhou", 0.8, 1.0), ("gem-miner", 0.02, 0.2), ("gem-miner", 0.5, 0.5)],
)
def test_frozen_weights_are_scaled_for_the_density_at_which_scores_learn(method, density, scaled):
    assert rescaling(method, [], MaskSource(kind="search", density=density)) == scaled
