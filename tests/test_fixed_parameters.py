"""What an architecture fixes, what no ticket can hold, and layers whose weight is no plain parameter."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import supermask as sm
from supermask.weights.init import init_of
from supermask.weights.roles import classify, decision_table


class Net(nn.Module):
    """A sinusoid, a table of indices, a padding row, structured start values, a scalar and nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Embedding(20, 8)
        self.place.requires_grad_(False)
        self.order = nn.Parameter(torch.arange(8), requires_grad=False)
        self.word = nn.Embedding(10, 8, padding_idx=3)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, 5.0)).repeat(8, 1))
        self.scale = nn.Parameter(torch.tensor(2.5))
        self.empty = nn.Parameter(torch.zeros(0, 8))
        self.fc = nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        rates = self.A_log.exp().mean(dim=1)
        return self.fc((self.word(ids) + self.place(ids)).mean(dim=1)[:, self.order] * rates) * self.scale


KEPT = ("place.weight", "order", "A_log", "empty")


def test_what_the_architecture_fixes_survives_every_draw():
    model = Net()
    before = {name: p.clone() for name, p in model.named_parameters()}
    sm.randomize_(model, seed=1, keep=["A_log"])
    first = {name: p.clone() for name, p in model.named_parameters()}
    for name in KEPT:
        assert torch.equal(first[name], before[name]) and not model.get_parameter(name).requires_grad
    assert not first["word.weight"][3].any() and first["word.weight"].std() > 0.8
    assert float(first["scale"]) == 2.5
    assert "kept" in decision_table(classify(model))
    record = init_of(model)
    assert set(record.fixed) == {"place.weight", "order", "empty"} and record.kept == ("A_log",)
    for _ in range(2):  # once frozen by the first call, nothing else counts as fixed
        sm.randomize_(model, seed=1, keep=["A_log"])
        assert all(torch.equal(first[name], p) for name, p in model.named_parameters())
    assert init_of(model) == record


def test_what_a_search_stopped_is_not_fixed(small_net):
    twin = copy.deepcopy(small_net)
    sm.EdgePopup(small_net, density=0.5, lr=0.1)
    sm.randomize_(small_net, seed=3)
    sm.randomize_(twin, seed=3)
    assert init_of(small_net) == init_of(twin) and init_of(twin).fixed == ()


def test_a_model_that_was_frozen_as_a_whole_is_drawn(small_net):
    small_net.requires_grad_(False)
    sm.randomize_(small_net)
    assert init_of(small_net).fixed == () and small_net.conv.weight.requires_grad


def test_a_ticket_holds_what_was_kept(tmp_path):
    model = sm.randomize_(Net(), seed=1, keep=["A_log"])
    model.empty = None
    search = sm.EdgePopup(model, density=0.5, lr=0.1)
    assert list(search.scores) == ["fc.weight"]
    ids = torch.randint(10, (6, 5))
    model(ids).square().sum().backward()
    search.step()
    ticket = sm.Ticket.load(search.ticket().save(tmp_path / "kept.ticket"))
    other = Net()
    other.empty = None
    with torch.no_grad():
        other.order.zero_()
    twin = ticket.apply(other)
    assert ticket.strong and torch.equal(twin(ids), model(ids))
    again = sm.randomize_(twin, seed=2, keep=["A_log"])
    assert torch.equal(again.place.weight, model.place.weight)  # fixed in a model that a ticket was put on


@pytest.mark.parametrize("density", [0.3, 1.0])
def test_the_padding_row_of_a_masked_embedding_stays_zero(density):
    model = sm.randomize_(nn.Sequential(nn.Embedding(20, 8, padding_idx=0), nn.Linear(8, 3)), include=["0.*"])
    search = sm.EdgePopup(model, density=density, lr=0.1, include=["0.*"])
    ids = torch.randint(20, (30,))
    for _ in range(3):
        search.zero_grad()
        model(ids).square().sum().backward()
        search.step()
    assert not model[0].weight[0].any()
    if density < 1:
        assert not search.mask["0.weight"][0].any() and search.ticket().strong
    assert torch.equal(search.ticket().apply(copy.deepcopy(model))[0].weight, model[0].weight)


REPARAMETRIZED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "old spectral_norm": nn.utils.spectral_norm,
}


@pytest.mark.parametrize("change", REPARAMETRIZED.values(), ids=REPARAMETRIZED)
def test_a_layer_whose_weight_is_no_plain_parameter_is_refused_by_name_or_left_alone(change):
    model = nn.Sequential(change(nn.Linear(16, 16)), nn.ReLU(), nn.Linear(16, 4))
    before = {
        name: p.clone() for name, p in model.named_parameters() if name.startswith("0.") and "weight" in name
    }
    for call in (sm.randomize_, lambda m: sm.EdgePopup(m, density=0.5, lr=0.1)):
        with pytest.raises(ValueError, match=r"0\.[a-z.]*weight.* is one of the parts"):
            call(model)
    assert all(torch.equal(before[name], model.get_parameter(name)) for name in before)
    sm.randomize_(model, exclude=["0.*"])
    search = sm.EdgePopup(model, density=0.5, lr=0.1, exclude=["0.*"])
    assert list(search.scores) == ["2.weight"]
    assert all(torch.equal(before[name], model.get_parameter(name)) for name in before)


def test_a_removed_parametrization_is_a_plain_layer_again():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(16, 4)))
    with pytest.raises(ValueError, match=r"remove_parametrizations\(0, 'weight'\)"):
        sm.randomize_(model)
    nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    assert list(sm.EdgePopup(sm.randomize_(model), density=0.5, lr=0.1).scores) == ["0.weight"]


class Odd(nn.Module):
    def __init__(self, odd: Tensor) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.odd = nn.Parameter(odd, requires_grad=odd.is_complex())


@pytest.mark.parametrize(
    ("odd", "remedy"),
    [
        (torch.zeros(3, 3, dtype=torch.complex64), "odd is of type complex64.*view_as_real"),
        (torch.zeros(3, 3, device="meta"), r"odd is on the meta device.*to_empty"),
        (torch.zeros(3, 3).to(torch.float8_e4m3fn), "odd is of type float8_e4m3fn"),
    ],
)
def test_what_no_ticket_can_hold_is_refused_before_anything_is_drawn(odd, remedy):
    model = Odd(odd)
    before = model.fc.weight.clone()
    for call in (sm.randomize_, lambda m: sm.EdgePopup(m, density=0.5, lr=0.1)):
        with pytest.raises(ValueError, match=remedy):
            call(model)
    assert torch.equal(before, model.fc.weight)


def test_layers_without_a_shape_or_with_integers_to_mask_are_refused():
    with pytest.raises(ValueError, match="weight has no shape yet"):
        sm.randomize_(nn.LazyLinear(4))
    with pytest.raises(ValueError, match=r"odd, which cannot be masked \(int64\)"):
        classify(Odd(torch.zeros(3, 3, dtype=torch.int64)), include=["odd"])


def test_a_ticket_is_not_put_onto_a_meta_model():
    ticket = sm.EdgePopup(sm.randomize_(nn.Linear(8, 4)), density=0.5, lr=0.1).ticket()
    with torch.device("meta"):
        model = nn.Linear(8, 4)
    with pytest.raises(sm.TicketError, match=r"weight.* meta device.*to_empty"):
        ticket.apply(model)
    assert torch.equal(ticket.apply(model.to_empty(device="cpu")).weight, ticket.weights()["weight"])
