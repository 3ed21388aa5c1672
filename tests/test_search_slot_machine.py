"""Slot machines: which value stands, how scores move, and that a ticket takes log₂ K bits a connection."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import supermask as sm
from supermask.weights.init import init_of

from .test_search import linear_net, train

SlotMachine = sm.SEARCHES["slot-machine"]


def drawn(model: nn.Module, name: str, options: int) -> np.ndarray:
    """All values of the connections of a layer, (options, *shape), in the order of their generations."""
    record = init_of(model)
    draw = record.named()[name]
    dtype = model.get_parameter(name).dtype
    return np.stack([draw.weight(record.seed, dtype, generation=g).numpy() for g in range(options)])


def nearest(values: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The value nearest to each score, by distances."""
    place = np.abs(values.astype(np.float64) - scores.astype(np.float64)).argmin(axis=0)
    return np.take_along_axis(values, place[None], axis=0)[0]


def batches(count: int, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(16, 1, 8, 8, generator=generator).to(dtype),
            torch.randint(5, (16,), generator=generator),
        )
        for _ in range(count)
    ]


def step(model: nn.Module, search: sm.Search, x: Tensor, y: Tensor) -> None:
    search.zero_grad()
    F.cross_entropy(model(x), y).backward()
    search.step()


@pytest.mark.parametrize("options", [2, 5, 8])
@pytest.mark.parametrize("init", ["kaiming_normal", "signed_constant", "kaiming_uniform"])
def test_the_value_nearest_to_the_score_stands_and_scores_move_like_weights(options, init):
    """Straight-through rounding to the drawn values, written out in NumPy."""
    model = sm.randomize_(linear_net(), init, seed=3)
    search = SlotMachine(model, density=1.0, lr=0.5, momentum=0.9, options=options, seed=4)
    values = {name: drawn(model, name, options) for name in search.scores}
    scores = {name: score.double().numpy().copy() for name, score in search.scores.items()}
    speed = {name: np.zeros_like(score) for name, score in scores.items()}
    moved = False
    for x, y in batches(12):
        before = {name: model.get_parameter(name).detach().clone() for name in scores}
        search.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for name in scores:
            grad = model.get_parameter(name).grad.double().numpy()
            speed[name] = 0.9 * speed[name] + grad
            scores[name] -= 0.5 * speed[name]
        search.step()
        for name, score in search.scores.items():
            np.testing.assert_allclose(score.numpy(), scores[name], rtol=1e-5, atol=1e-6)
            weight = model.get_parameter(name).detach()
            assert np.array_equal(weight.numpy(), nearest(values[name], score.numpy()))
            moved |= not torch.equal(weight, before[name])
    assert moved


def test_first_scores_have_the_size_of_the_weights_and_are_the_seeds():
    model = sm.randomize_(nn.Linear(400, 500), "kaiming_normal", seed=0)
    scores = [SlotMachine(model, density=1.0, lr=0.1, seed=seed).scores["weight"].clone() for seed in (0, 1)]
    for score in scores:
        assert float(score.std()) == pytest.approx(math.sqrt(2 / 400), rel=0.02)
        assert float(score.abs().max()) <= math.sqrt(3 * 2 / 400) * 1.01
    assert abs(float(torch.corrcoef(torch.stack(scores).flatten(1))[0, 1])) < 0.01


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=9),
    score=st.floats(-6, 6, width=32),
)
def test_no_other_value_is_nearer(values, score):
    model = sm.randomize_(nn.Linear(3, 2), "kaiming_normal")
    search = SlotMachine(model, density=1.0, lr=0.1, options=2)
    options = torch.tensor(values, dtype=torch.float64).sort().values
    state = {"score": torch.tensor([score], dtype=torch.float64), "options": options[:, None]}
    found = float(search._chosen(state))
    assert found in values
    assert abs(found - score) == pytest.approx(min(abs(value - score) for value in values), abs=1e-12)


def test_greedy_takes_the_value_of_the_largest_score_and_teaches_all():
    """The autograd form: the choice is one-hot, and its gradient that of the scores."""
    model = sm.randomize_(linear_net(), "kaiming_normal", seed=3)
    search = SlotMachine(model, density=1.0, lr=0.3, options=4, choice="greedy", seed=4)
    names = list(search.scores)
    values = [torch.from_numpy(np.sort(drawn(model, name, 4), axis=0)) for name in names]
    scores = [nn.Parameter(search.scores[name].clone()) for name in names]
    for name, score in search.scores.items():
        outputs, inputs = model.get_parameter(name).shape
        assert score.shape == (4, outputs, inputs)
        assert 0 < float(score.min()) and float(score.max()) < math.sqrt(2 / (inputs + outputs))
    optimizer = torch.optim.SGD(scores, lr=0.3)
    for x, y in batches(10):
        step(model, search, x, y)
        optimizer.zero_grad()
        weights = []
        for score, value in zip(scores, values, strict=True):
            one_hot = F.one_hot(score.argmax(dim=0), 4).movedim(-1, 0)
            weights.append(((one_hot - score).detach() + score).mul(value).sum(dim=0))
        F.cross_entropy(F.linear(F.relu(F.linear(x.flatten(1), weights[0])), weights[1]), y).backward()
        optimizer.step()
        for i, name in enumerate(names):
            torch.testing.assert_close(search.scores[name], scores[i].detach())
            chosen = values[i].gather(0, search.scores[name].argmax(dim=0, keepdim=True))[0]
            assert torch.equal(model.get_parameter(name), chosen)


def test_nearest_is_greedy_with_other_first_scores():
    """w · u − w² / 2 stays that under gradient descent, and the largest belongs to the nearest value."""
    models = [sm.randomize_(linear_net().double(), "kaiming_normal", seed=3) for _ in range(2)]
    near, greedy = (
        SlotMachine(model, density=1.0, lr=0.4, options=6, choice=choice)
        for model, choice in zip(models, ("nearest", "greedy"), strict=True)
    )
    for name, u in near.scores.items():
        values = greedy.state[models[1].get_parameter(name)]["options"]
        greedy.scores[name].copy_(values * u - values.square() / 2)
    greedy.write(greedy.select())
    for x, y in batches(15, torch.float64):
        for model, search in zip(models, (near, greedy), strict=True):
            step(model, search, x, y)
        for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(a, b)


def test_below_a_density_of_one_the_largest_scores_keep_their_connections(batch):
    model = sm.randomize_(linear_net(), "kaiming_normal", seed=3)
    search = SlotMachine(model, density=0.3, lr=0.5, options=4)
    train(model, search, batch, 5)
    for name, mask in search.mask.items():
        size = search.scores[name].abs()
        assert int(mask.sum()) == round(0.3 * mask.numel())
        assert float(size[mask].min()) >= float(size[~mask].max())
        weight = model.get_parameter(name).detach().numpy()
        expected = nearest(drawn(model, name, 4), search.scores[name].numpy())
        assert np.array_equal(weight, np.where(mask.numpy(), expected, 0))


def test_layers_are_compared_in_units_of_what_was_drawn_for_them():
    """A global density takes like parts of layers whose scores differ only in scale."""
    wide, narrow = nn.Linear(4096, 64, bias=False), nn.Linear(64, 512, bias=False)
    model = sm.randomize_(nn.ModuleList([wide, narrow]), "kaiming_normal")
    search = SlotMachine(model, density=0.2, lr=0.1, distribution="global")
    shares = {name: float(mask.float().mean()) for name, mask in search.mask.items()}
    assert shares["0.weight"] == pytest.approx(0.2, abs=0.01)
    assert shares["1.weight"] == pytest.approx(0.2, abs=0.01)
    assert sum(int(mask.sum()) for mask in search.mask.values()) == round(0.2 * (4096 * 64 + 64 * 512))


@pytest.mark.parametrize(("options", "bits"), [(2, 1), (4, 2), (8, 3)])
def test_a_ticket_is_a_seed_and_the_bits_of_the_choices(options, bits, batch, tmp_path):
    model = sm.create_model("lenet-300-100", num_classes=5, in_channels=1, image_size=8)
    sm.randomize_(model, "kaiming_normal", seed=9)
    search = SlotMachine(model, density=1.0, lr=0.5, options=options)
    train(model, search, batch, 5)
    path = search.ticket().save(tmp_path / "slots.ticket")
    ticket = sm.Ticket.load(path)
    weights = sum(weight.numel() for weight in search.weights.values())
    assert ticket.strong and ticket.provenance["method"] == "slot-machine"
    assert path.stat().st_size <= weights * (bits + 0.01) / 8 + 3500
    rebuilt = sm.load(path)
    for (name, a), b in zip(model.named_parameters(), rebuilt.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": 1}, "options must be a number of values from 2 to 4096, not 1"),
        ({"options": 2.0}, r"not 2\.0"),
        ({"choice": "best"}, "choice must be one of nearest, greedy, not 'best'"),
        ({"choice": "greedy"}, r"density must be 1, not 0\.5"),
        ({"lr": None}, "no default learning rate"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    model = sm.randomize_(linear_net(), "kaiming_normal")
    with pytest.raises(ValueError, match=message):
        SlotMachine(model, **{"density": 0.5, "lr": 0.1, **options})


@pytest.mark.filterwarnings("ignore::supermask.weights.notices.NotDrawnWarning")
def test_weights_that_no_seed_gave_have_no_further_values():
    with pytest.raises(ValueError, match="randomize_ did not draw"):
        SlotMachine(linear_net(), density=1.0, lr=0.1)
