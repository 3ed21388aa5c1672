"""Commands whose searches are given no learning rate: relative steps, as in Python."""

import pytest

import supermask as sm
from supermask.data import load_data
from supermask.experiments import CompareConfig
from supermask.experiments.compare.command import plan_compare
from supermask.experiments.config import ConfigError
from supermask.experiments.search import SearchConfig, plan_search
from supermask.experiments.searches import search_of

NORMS = {"model": "conv-2", "model_args": {"width": "0.25", "batch_norm": "true"}}
CONV = {"model": "conv-2", "model_args": {"width": "0.25"}}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def searched(digits, **options):
    """The one run of a `supermask search`."""
    return plan_search(SearchConfig(out="x", **options), digits).rows[0]


def compared(digits, method="edge-popup", **options):
    """The one search of a comparison."""
    config = CompareConfig(methods=(method,), densities=(0.4,), seeds=(0,), out="x", **options)
    return plan_compare(config, digits).rows[0]


@pytest.mark.parametrize("plan", [searched, compared])
@pytest.mark.parametrize(("network", "rate"), [(NORMS, 0.02), (CONV, 0.005)])
def test_a_command_takes_the_steps_that_the_class_takes(digits, plan, network, rate):
    run = plan(digits, **network)
    args = {"width": 0.25, "batch_norm": network is NORMS}
    model = sm.randomize_(sm.create_model("conv-2", in_channels=1, image_size=8, **args))
    own = sm.EdgePopup(model, density=run.density)
    del model
    other = sm.randomize_(sm.create_model("conv-2", in_channels=1, image_size=8, **args))
    found = search_of(other, run.method, run.rule, run.mask, seed=0)
    assert found.step_size == own.step_size == "relative"
    options = ("lr", "momentum", "nesterov", "weight_decay")
    assert [found.defaults[name] for name in options] == [own.defaults[name] for name in options]
    assert found.defaults["lr"] == rate


@pytest.mark.parametrize("plan", [searched, compared])
def test_a_given_rate_is_the_published_rule(digits, plan):
    run = plan(digits, **{"lr" if plan is searched else "search_lr": 0.3})
    assert (run.rule.lr, run.rule.nesterov, run.rule.weight_decay) == (0.3, False, 5e-4)
    assert "step_size" not in run.mask.options


def test_relative_steps_at_a_rate_of_ones_own_have_no_decay_unless_it_is_given(digits):
    relative = {"step_size": "relative"}
    run = searched(digits, lr=0.01, method_args=relative)
    assert (run.rule.lr, run.rule.weight_decay) == (0.01, 0.0)
    assert searched(digits, lr=0.01, weight_decay=1e-3, method_args=relative).rule.weight_decay == 1e-3
    assert searched(digits, weight_decay=1e-3).rule.weight_decay == 1e-3
    plain = searched(digits, momentum=0.0).rule
    assert (plain.momentum, plain.nesterov) == (0.0, False)


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"search_optimizer": "adam"}, "--search-optimizer 'adam': give --search-lr with it"),
        (
            {"search_args": {"step_size": "absolute"}},
            "--search-args 'step_size=absolute': give --search-lr with it",
        ),
    ],
)
def test_another_rule_needs_a_rate(options, refused):
    with pytest.raises(ConfigError, match=refused):
        CompareConfig(methods=("edge-popup",), out="x", **options)
    without = {
        name.replace("search_args", "method_args").removeprefix("search_"): options[name] for name in options
    }
    with pytest.raises(ConfigError, match="give --lr with it"):
        SearchConfig(out="x", **without)


def test_methods_without_a_default_have_one_in_their_recipe_or_ask(digits):
    for method in sm.SEARCHES:
        assert compared(digits, method).rule.lr > 0
    with pytest.raises(ConfigError, match="--methods 'biprop': give --search-lr with it: it has no default"):
        CompareConfig(methods=("biprop",), own_recipes=False, out="x")


def test_a_sweep_has_rates_of_the_published_rule(digits):
    run = searched(digits, lr_sweep=(0.1, 0.3))
    assert run.rule.lr == 0.1 and "step_size" not in run.mask.options
    relative = searched(digits, lr_sweep=(0.01, 0.03), method_args={"step_size": "relative"})
    assert relative.mask.options == {"step_size": "relative"} and relative.rule.weight_decay == 0
