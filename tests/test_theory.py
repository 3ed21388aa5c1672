"""Strong tickets by construction: the networks compute what they claim, from untouched draws, ever nearer."""

import copy
import csv
import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from supermask.data import load_data
from supermask.experiments import TheoryConfig, run_theory
from supermask.experiments.config import ConfigError
from supermask.experiments.theory import fit_rates, summarize
from supermask.io import DamagedFileError
from supermask.report import headline, write_report
from supermask.report.pages.theory import draw_figures, power_text, table
from supermask.theory import CONSTRUCTIONS, attention, draws, orseau
from supermask.theory.attention import Attention, merged, prune_attention
from supermask.theory.measure import measure
from supermask.theory.network import Block, MaskedLinear, masked_layers
from supermask.theory.target import Target, to_rows, to_sphere, train_attention, train_perceptron

PERCEPTRON = [name for name, construction in CONSTRUCTIONS.items() if construction.target == "perceptron"]
SIZES = {"malach": 40, "pensia": 16, "orseau": 64, "attention": 12}


def random_perceptron(widths=(6, 5, 4, 3), seed=0):
    generator = torch.Generator().manual_seed(seed)
    modules = []
    for inputs, outputs in itertools.pairwise(widths):
        layer = nn.Linear(inputs, outputs, bias=False, dtype=torch.float64)
        weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
        layer.weight.data = weight / torch.linalg.matrix_norm(weight, ord=2)
        modules += [layer, nn.ReLU()]
    return nn.Sequential(*modules[:-1]).requires_grad_(False)


def random_attention(width=5, heads=2, head_width=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inner = heads * head_width
    projections = []
    for shape in [(inner, width)] * 3 + [(width, inner)]:
        layer = nn.Linear(shape[1], shape[0], bias=False, dtype=torch.float64)
        layer.weight.data = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.4
        projections.append(layer)
    return Attention(heads, *projections).requires_grad_(False)


def pruned(name, n=None, seed=0):
    if name == "attention":
        target = nn.Sequential(random_attention(), nn.Flatten())
    else:
        target = random_perceptron()
    return target, CONSTRUCTIONS[name].prune(target, n or SIZES[name], seed)


def inputs_of(target):
    generator = torch.Generator().manual_seed(9)
    shape = (50, 4, 5) if isinstance(target[0], Attention) else (50, 6)
    return F.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("name", PERCEPTRON)
def test_a_pruned_perceptron_computes_with_the_weights_it_stands_for(name):
    target, network = pruned(name)
    x = inputs_of(target)
    expected = x
    for index, block in enumerate(m for m in network if isinstance(m, Block)):
        positive, negative = block.effective()
        if index:
            expected = expected.clamp(min=0)
        expected = expected.clamp(min=0) @ positive.T + expected.clamp(max=0) @ negative.T
    torch.testing.assert_close(network.double()(x), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", PERCEPTRON)
def test_effective_weights_are_sums_of_kept_products(name):
    _, network = pruned(name)
    block = next(m for m in network if isinstance(m, Block))
    first, second = block.first.effective.double(), block.second.effective.double()
    positive = torch.zeros(len(second), first.shape[1], dtype=torch.float64)
    negative = torch.zeros_like(positive)
    for unit in range(len(first)):
        product = torch.outer(second[:, unit], first[unit])
        positive += torch.where(first[unit] > 0, product, 0)
        negative += torch.where(first[unit] < 0, product, 0)
    for mine, theirs in zip((positive, negative), block.effective(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_pruned_attention_computes_with_the_matrices_it_stands_for():
    target, network = pruned("attention")
    x = inputs_of(target)
    for part in (target[0], network.double()[0]):
        scores, outputs = merged(part)
        expected = sum(
            (x @ a @ x.transpose(1, 2)).softmax(dim=-1) @ x @ b.T
            for a, b in zip(scores, outputs, strict=True)
        )
        torch.testing.assert_close(part(x), expected, rtol=1e-10, atol=1e-12)


def test_attention_is_that_of_torch():
    mine = random_attention(width=6, heads=2, head_width=3)
    theirs = nn.MultiheadAttention(6, 2, bias=False, batch_first=True, dtype=torch.float64)
    theirs.in_proj_weight.data = torch.cat([m.weight for m in (mine.query, mine.key, mine.value)])
    theirs.out_proj.weight.data = mine.output.weight
    x = torch.randn(3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mine(x), theirs(x, x, x)[0])


def redraw(name, target, n, seed):
    """Every random layer of the network again, from seed and size alone."""
    if name == "attention":
        width, heads = 5, 2
        hidden = n * width
        scores, outputs = merged(target[0])
        roots = [math.sqrt(max(1.0, attention.HEADROOM * float(m.abs().max()))) for m in (scores, outputs)]
        query, key = (
            draws.uniform((heads * hidden, width), seed, part, roots[0] * hidden**0.25)
            for part in ("query", "key")
        )
        value = draws.uniform((heads * hidden, width), seed, "value", roots[1])
        return [query, key, value, draws.uniform((width, heads * hidden), seed, "output", roots[1])]
    layers = []
    for index, weight in enumerate(target.parameters()):
        outputs, inputs = weight.shape
        for part, shape in (("first", (inputs * n, inputs)), ("second", (outputs, inputs * n))):
            label = f"layer{index}.{part}"
            if name == "orseau":
                layers.append(draws.hyperbolic(shape, seed, label, *orseau.bounds(orseau.digits_of(n))))
            else:
                layers.append(draws.uniform(shape, seed, label))
    return layers


@pytest.mark.parametrize("name", list(CONSTRUCTIONS))
def test_only_masks_tell_the_network_from_the_random_draw(name):
    target, network = pruned(name, seed=3)
    layers = list(masked_layers(network))
    drawn = redraw(name, target, SIZES[name], seed=3)
    assert len(layers) == len(drawn)
    for layer, draw in zip(layers, drawn, strict=True):
        assert layer.weight.dtype == torch.float32 and torch.equal(layer.weight, draw)
        assert 0 < int(layer.mask.sum()) < layer.mask.numel()
        effective = layer.effective
        assert torch.equal(effective[layer.mask], draw[layer.mask])
        assert not effective[~layer.mask].any()
        assert torch.equal(layer.double().effective.float(), effective), "float64 holds the same numbers"
    assert not list(network.parameters()), "nothing can be trained"


@pytest.mark.parametrize("name", list(CONSTRUCTIONS))
def test_the_seed_decides_the_network(name):
    same, again, other = (pruned(name, seed=seed)[1].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(same[key], again[key]) for key in same)
    assert any(not torch.equal(same[key], other[key]) for key in same)


@pytest.mark.parametrize("name", PERCEPTRON)
def test_a_hidden_unit_that_nobody_uses_is_pruned_whole(name):
    _, network = pruned(name)
    for block in (m for m in network if isinstance(m, Block)):
        assert (block.first.mask.sum(dim=1) <= 1).all(), "a unit sees one input"
        assert torch.equal(block.first.mask.any(dim=1), block.second.mask.any(dim=0))


def test_malach_keeps_one_product_a_side():
    _, network = pruned("malach")
    block = next(m for m in network if isinstance(m, Block))
    incoming = block.first.effective.sum(dim=1)
    for side in (incoming > 0, incoming < 0):
        owner = block.first.mask[side].double().argmax(dim=1)
        for output in block.second.mask[:, side]:
            assert torch.equal(owner[output].bincount(minlength=6), torch.ones(6, dtype=torch.long))


def test_malach_and_pensia_choose_best_among_the_same_products():
    target = random_perceptron((3, 2))
    weight = target[0].weight
    n = 8
    errors = {}
    for name in ("malach", "pensia"):
        block = next(m for m in CONSTRUCTIONS[name].prune(target, n, 5) if isinstance(m, Block))
        errors[name] = [(side - weight).abs() for side in block.effective()]
    first, second = block.first.weight.double(), block.second.weight.double()
    for half, sign in enumerate((1, -1)):
        for i in range(2):
            for j in range(3):
                units = [u for u in range(j * n, j * n + n) if first[u, j] * sign > 0]
                products = [float(first[u, j] * second[i, u]) for u in units]
                single = min(abs(p - float(weight[i, j])) for p in products)
                sums = [0.0]
                for product in products:
                    sums += [s + product for s in sums]
                subset = min(abs(s - float(weight[i, j])) for s in sums)
                assert float(errors["malach"][half][i, j]) == pytest.approx(single, abs=1e-14)
                assert float(errors["pensia"][half][i, j]) == pytest.approx(subset, abs=1e-14)


def test_attention_chooses_the_best_subset_for_every_entry_of_every_head():
    target, n = random_attention(width=3), 6
    network = prune_attention(target, n, seed=2)
    drawn = [m.weight.double() for m in (network.query, network.key, network.value, network.output)]
    pairs = [(drawn[0], drawn[1] / math.sqrt(3 * n)), (drawn[2], drawn[3].T)]
    (scores, outputs), (scores_met, outputs_met) = merged(target), merged(network)
    wanted = [scores, outputs.transpose(1, 2)]
    met = [scores_met, outputs_met.transpose(1, 2)]
    for (seeing, chosen), aims, results in zip(pairs, wanted, met, strict=True):
        for head, a, b in itertools.product(range(2), range(3), range(3)):
            units = range((head * 3 + a) * n, (head * 3 + a + 1) * n)
            sums = [0.0]
            for unit in units:
                sums += [s + float(seeing[unit, a] * chosen[unit, b]) for s in sums]
            aim = float(aims[head, a, b])
            best = min(abs(s - aim) for s in sums)
            assert abs(float(results[head, a, b]) - aim) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("digits", [2, 5, 10])
def test_orseau_meets_every_weight_within_its_last_digit(digits):
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(16, 40, generator=generator, dtype=torch.float64) * 2 - 1
    block = orseau.prune_orseau(weight, digits * orseau.UNITS_FOR_A_DIGIT, 0, "layer0")
    for side in block.effective():
        assert float((side - weight).abs().max()) <= orseau.BASE**-digits
        assert (side.abs() <= weight.abs() + 1e-12).all(), "the greedy expansion comes from below"


def test_hyperbolic_magnitudes_are_uniform_in_their_logarithm():
    drawn = draws.hyperbolic((20_000,), 0, "x", 0.01, 4.0)
    place = (drawn.abs().double().log() - math.log(0.01)) / math.log(400)
    assert float(place.min()) >= -1e-6 and float(place.max()) <= 1 + 1e-6
    grid = torch.linspace(0, 1, 20_000, dtype=torch.float64)
    assert float((place.sort().values - grid).abs().max()) < 1.63 / math.sqrt(20_000)  # Kolmogorov, 1 %
    assert abs(float((drawn > 0).double().mean()) - 0.5) < 0.015


def mean_errors(name, sizes, seeds=3):
    means = []
    for n in sizes:
        rows = []
        for seed in range(seeds):
            target, network = pruned(name, n, seed)
            x = inputs_of(target)
            rows.append(measure(Target(target, x, torch.zeros(len(x))), network)["mean_weight_error"])
        means.append(sum(rows) / seeds)
    return means


@pytest.mark.parametrize(
    ("name", "sizes", "tolerance"),
    [
        ("malach", (16, 64, 256), 0.25),
        ("pensia", (16, 22, 28), 0.35),
        ("orseau", (48, 80, 112), 0.25),
        ("attention", (8, 12, 16), 0.35),
    ],
)
def test_the_error_falls_as_theory_predicts(name, sizes, tolerance):
    means = mean_errors(name, sizes)
    assert means == sorted(means, reverse=True)
    entries = [
        {"construction": name, "n": n, "mean_weight_error": {"mean": mean}}
        for n, mean in zip(sizes, means, strict=True)
    ]
    (rate,) = fit_rates(entries)
    assert rate["slope"] == pytest.approx(1, abs=tolerance)


@pytest.mark.parametrize("name", list(CONSTRUCTIONS))
def test_measures_are_those_of_a_plain_computation(name):
    target, network = pruned(name)
    x = inputs_of(target)
    labels = target(x).argmax(dim=1)
    predicted = copy.deepcopy(network).double()(x).argmax(dim=1)
    part, theirs = (net[0] if name == "attention" else net for net in (target, network))
    wanted, got = part(x), copy.deepcopy(theirs).double()(x)
    single = copy.deepcopy(theirs).float()(x.float()).double()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    measured = measure(Target(target, x, labels), network)
    errors = (got - wanted).norm(dim=-1).view(len(x), -1).amax(dim=1)
    assert measured["max_output_error"] == pytest.approx(float(errors.max()), rel=1e-9)
    assert measured["mean_output_error"] == pytest.approx(float(errors.mean()), rel=1e-9)
    assert measured["max_output_error_float32"] == pytest.approx(
        float((single - wanted).norm(dim=-1).max()), rel=1e-3
    )
    assert abs(measured["max_output_error_float32"] - measured["max_output_error"]) < 1e-5
    assert measured["accuracy"] == float((predicted == labels).double().mean())
    assert measured["target_accuracy"] == 1.0
    assert measured["target_weights"] == sum(p.numel() for p in target.parameters())
    layers = list(masked_layers(network))
    assert measured["random_weights"] == sum(layer.weight.numel() for layer in layers)
    assert measured["kept_weights"] == sum(int(layer.mask.sum()) for layer in layers)
    assert measured["max_weight_error"] >= measured["mean_weight_error"] > 0
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", PERCEPTRON)
def test_output_errors_obey_the_bound_that_weight_errors_give(name):
    """Layers of norm 1 let an error through at most; each adds the Frobenius norm of its own."""
    target, network = pruned(name)
    x = inputs_of(target)
    factor = 1.0
    for block, weight in zip((m for m in network if isinstance(m, Block)), target.parameters(), strict=True):
        largest = torch.maximum(*((side - weight).abs() for side in block.effective()))
        factor *= 1 + float(largest.norm())
    measured = measure(Target(target, x, torch.zeros(len(x))), network)
    assert measured["max_output_error"] <= factor - 1


def test_wrong_targets_are_refused():
    prune = CONSTRUCTIONS["pensia"].prune
    with pytest.raises(ValueError, match="at least 1"):
        prune(random_perceptron(), 0, 0)
    with pytest.raises(ValueError, match="without biases"):
        prune(nn.Sequential(nn.Linear(2, 2)), 4, 0)
    with pytest.raises(ValueError, match="linear layers without biases and ReLUs"):
        prune(nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False)), 4, 0)
    with pytest.raises(ValueError, match="linear layers without biases and ReLUs"):
        prune(nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU()), 4, 0)
    heavy = random_perceptron()
    heavy[2].weight.data *= 50
    with pytest.raises(ValueError, match=r"layer 1 has a weight of magnitude .* spectral norm"):
        prune(heavy, 4, 0)
    with pytest.raises(ValueError, match=r"weights, more than .* fewer random numbers"):
        prune(nn.Sequential(nn.Linear(20_000, 1, bias=False)), 100, 0)
    with pytest.raises(ValueError, match="begin with Attention, not with Linear"):
        CONSTRUCTIONS["attention"].prune(random_perceptron(), 4, 0)
    biased = random_attention()
    biased.key = nn.Linear(5, 6)
    with pytest.raises(ValueError, match="without biases"):
        prune_attention(biased, 4, 0)


def test_targets_are_trained_on_what_the_theorems_ask():
    data = load_data("digits")
    target = train_perceptron(data, (8,), 8, 100)
    assert len(target.inputs) == len(target.labels) == 100
    torch.testing.assert_close(target.inputs.norm(dim=1), torch.ones(100, dtype=torch.float64))
    assert (target.inputs < 0).any() and (target.inputs > 0).any(), "both sides of a gadget are used"
    for weight in target.network.parameters():
        assert weight.dtype == torch.float64
        assert float(torch.linalg.matrix_norm(weight, ord=2)) == pytest.approx(1)
    assert float((target.network(target.inputs).argmax(1) == target.labels).double().mean()) > 0.6
    seeing = train_attention(data, 2, 4, 4, 100)
    assert seeing.inputs.shape == (100, 8, 8)
    assert float((seeing.network(seeing.inputs).argmax(1) == seeing.labels).double().mean()) > 0.3


def test_images_become_points_of_the_ball_and_rows():
    images = torch.arange(2 * 3 * 2 * 2, dtype=torch.float64).view(2, 3, 2, 2)
    images[1] = 0
    flat, rows = to_sphere(images), to_rows(images)
    torch.testing.assert_close(flat[0], images[0].flatten() / images[0].norm())
    assert rows.shape == (2, 2, 6) and not flat[1].any() and not rows[1].any()
    lower = images[0, :, 1].flatten()
    torch.testing.assert_close(rows[0, 1], lower / lower.norm())
    torch.testing.assert_close(rows[0, 0], images[0, :, 0].flatten() / lower.norm())


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return {
        "out": str(tmp_path_factory.mktemp("theory")),
        "hidden": (6,),
        "heads": 1,
        "head_width": 4,
        "epochs": 2.0,
        "seeds": 2,
        "images": 40,
        "malach": (8, 16),
        "pensia": (6, 10),
        "orseau": (16, 32),
        "attention": (6, 9),
    }


@pytest.fixture(scope="module")
def document(options):
    return run_theory(TheoryConfig(**options))


def test_a_run_leaves_rows_summary_and_rates(document, options, tmp_path):
    config = TheoryConfig(**options)
    assert document["schema"] == "supermask/theory/1"
    assert [(row["construction"], row["n"], row["seed"]) for row in document["rows"]] == config.cases
    assert len(config.cases) == 16
    with open(f"{options['out']}/results.json") as file:
        assert json.load(file) == document
    with open(f"{options['out']}/results.csv") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["max_output_error"]) for line in lines] == [
        row["max_output_error"] for row in document["rows"]
    ]
    entry = document["summary"][0]
    members = [row for row in document["rows"] if (row["construction"], row["n"]) == ("malach", 8)]
    values = [row["mean_weight_error"] for row in members]
    assert entry["mean_weight_error"] == {"mean": sum(values) / 2, "min": min(values), "max": max(values)}
    assert [rate["construction"] for rate in document["rates"]] == list(CONSTRUCTIONS)
    assert len(table(document).rows) == len(document["summary"])


def test_finished_cases_are_not_computed_again(document, options, monkeypatch):
    def fail(*_):
        raise AssertionError("a finished case was computed again")

    seen = []
    with monkeypatch.context() as context:
        context.setattr("supermask.experiments.theory.measure", fail)
        again = run_theory(TheoryConfig(**options), lambda row, done, total: seen.append((done, total)))
        assert again == document
        assert seen == [(i, 16) for i in range(1, 17)]
        # Other targets are other cases, of the construction that they concern alone.
        narrower = TheoryConfig(**options | {"hidden": (5,), "constructions": ("attention",)})
        assert run_theory(narrower)["rows"] == [
            r for r in document["rows"] if r["construction"] == "attention"
        ]
        with pytest.raises(AssertionError, match="again"):
            run_theory(TheoryConfig(**options | {"hidden": (5,)}))
    run_theory(TheoryConfig(**options))


def test_a_lost_case_is_made_again_with_the_same_numbers(document, options):
    case = next(Path(options["out"], "cases").glob("pensia-10-1-*.json"))
    whole = json.loads(case.read_text())
    case.unlink()
    again = run_theory(TheoryConfig(**options))
    assert [{**row, "seconds": 0} for row in again["rows"]] == [
        {**row, "seconds": 0} for row in document["rows"]
    ]
    case.write_text("{}")
    with pytest.raises(DamagedFileError, match="delete it"):
        run_theory(TheoryConfig(**options))
    case.write_text(json.dumps(whole))


def test_figures_have_the_same_bytes_each_time(document, tmp_path):
    first, second = draw_figures(document), draw_figures(json.loads(json.dumps(document)))
    assert list(first) == ["theory-error", "theory-size"]
    for name, drawing in first.items():
        assert drawing.png.startswith(b"\x89PNG") and drawing == second[name]
        assert "Pensia et al. 2020" in drawing.svg and "mathdefault" not in drawing.svg
    page = write_report(document, tmp_path).read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert headline(document) in page
    assert all((tmp_path / f"{name}.png").read_bytes() == drawing.png for name, drawing in first.items())
    only = [row for row in document["rows"] if row["construction"] == "pensia" and row["n"] == 10]
    summary = summarize(only)
    assert draw_figures({"summary": summary, "rates": fit_rates(summary)}), (
        "one size has no rate, but a figure"
    )


def test_powers_of_ten_read_as_such():
    texts = [power_text(10.0**exponent) for exponent in (-12, -3, 0, 1, 2, 3)]
    assert texts == ["10⁻¹²", "10⁻³", "1", "10", "100", "10³"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"out": ""}, "--out"),
        ({"seeds": 0}, "--seeds 0: take a positive number"),
        ({"epochs": math.nan}, "--epochs"),
        ({"pensia": (8, 0)}, "--pensia"),
        ({"hidden": (0,)}, "--hidden"),
        ({"pensia": ()}, "leave out the construction"),
        ({"constructions": ()}, "--constructions"),
        ({"constructions": ("burkholz",)}, "--constructions 'burkholz': choose from malach"),
    ],
)
def test_wrong_options_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        TheoryConfig(**{"out": "x", **wrong})


def test_every_option_says_what_it_is():
    for field in dataclasses.fields(TheoryConfig):
        assert field.metadata["help"], field.name


def test_a_masked_layer_does_not_train():
    layer = MaskedLinear(torch.ones(2, 3), torch.eye(2, 3, dtype=torch.bool))
    assert not layer(torch.ones(1, 3)).requires_grad
    assert layer(torch.ones(1, 3)).tolist() == [[1.0, 1.0]]
