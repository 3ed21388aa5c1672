"""A search is an optimizer like any of torch: copies, hooks, odd gradients and rules, states, company."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

import supermask as sm
from supermask.weights.notices import FrozenParameterWarning, NotDrawnWarning, OtherDensityWarning

from .small_net import SmallNet
from .test_search import train


def drawn(density: float | None = None, **options) -> SmallNet:
    return sm.randomize_(SmallNet(), seed=0, density=density, **options)


def search_on(model: nn.Module, **options) -> sm.EdgePopup:
    return sm.EdgePopup(model, **{"density": 0.5, "lr": 0.1, "momentum": 0.9, **options})


def equal(a: sm.Search, b: sm.Search) -> bool:
    return all(torch.equal(a.scores[n], b.scores[n]) and torch.equal(a.mask[n], b.mask[n]) for n in a.scores)


def by_pickle(pair):
    return pickle.loads(pickle.dumps(pair))


def by_cloudpickle(pair):
    module = pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")
    return pickle.loads(module.dumps(pair))


@pytest.mark.parametrize("way", [copy.deepcopy, by_pickle, by_cloudpickle])
@pytest.mark.parametrize("scheduled", [False, True])
def test_a_copy_steps_itself_and_not_the_original(batch, way, scheduled):
    model = drawn()
    search = search_on(model)
    train(model, search, batch, 2)
    if scheduled:
        StepLR(search, 1)
    twin_model, twin = way((model, search))
    assert equal(search, twin)
    before = {name: score.clone() for name, score in search.scores.items()}
    train(twin_model, twin, batch, 3)
    assert (search.steps, twin.steps) == (2, 5)
    assert all(torch.equal(before[name], score) for name, score in search.scores.items())
    train(model, search, batch, 3)
    assert equal(search, twin)
    schedule = CosineAnnealingLR(twin, T_max=4)  # the copy takes a scheduler of its own
    train(twin_model, twin, batch, 1)
    schedule.step()
    assert twin.param_groups[0]["lr"] < 0.1 == search.param_groups[0]["lr"]


def test_hooks_of_states_see_and_may_change_all_of_it(batch):
    search, seen = search_on(drawn()), []
    search.register_state_dict_pre_hook(lambda s: seen.append(s is search))
    search.register_state_dict_post_hook(lambda s, state: {**state, "note": sorted(state)})
    state = search.state_dict()
    assert seen == [True] and state["note"] == ["base", "param_groups", "search", "state", "steps"]
    other = search_on(drawn(), seed=7)
    other.register_load_state_dict_pre_hook(lambda s, state: {**state, "steps": state["steps"] + 5})
    other.register_load_state_dict_post_hook(lambda s: seen.append(equal(search, s)))
    other.load_state_dict(state)
    assert seen == [True, True] and other.steps == 5
    assert search.state_dict()["note"] and search.steps == 0


def test_sparse_gradients_move_scores_like_dense_ones():
    ids, losses = torch.tensor([1, 2, 3, 3]), []
    searches = []
    for sparse in (False, True):
        model = nn.Sequential(nn.Embedding(20, 8, sparse=sparse), nn.Linear(8, 4))
        sm.randomize_(model, include=["0.weight"])
        searches.append(sm.EdgePopup(model, density=0.5, lr=0.1, momentum=0.9, include=["0.weight"]))
        for _ in range(3):
            searches[-1].zero_grad()
            loss = model(ids).square().sum()
            loss.backward()
            searches[-1].step()
            losses.append(loss.item())
    assert losses[:3] == losses[3:] and equal(*searches)


@pytest.mark.parametrize("base", [torch.optim.LBFGS, torch.optim.SparseAdam])
def test_rules_that_cannot_serve_are_refused_when_the_search_is_made(base):
    with pytest.raises(ValueError, match=f"{base.__name__} cannot move scores"):
        search_on(drawn(), base=base, momentum=0.9) if base is None else sm.EdgePopup(
            drawn(), density=0.5, lr=0.1, base=base
        )


# States.


def altered(state, **changes):
    return {**copy.deepcopy(state), **changes}


def test_a_refused_state_leaves_everything_as_it_was(batch):
    model = drawn()
    search = search_on(model)
    train(model, search, batch, 2)
    good = copy.deepcopy(search.state_dict())
    other = search_on(drawn(train_norms=True), train_norms=True).state_dict()
    wrong_weights = copy.deepcopy(good)
    wrong_weights["state"][2]["weight"][0, 0] += 1
    missing = copy.deepcopy(good)
    del missing["state"][1]["score"]
    groups = altered(good, base={**good["base"], "param_groups": []})
    before = copy.deepcopy((search.state_dict(), model.state_dict()))
    for state, message in (
        (other, "another train_norms"),
        (wrong_weights, r"other frozen weights of output\.weight"),
        (missing, r"hidden\.weight has no 'score'"),
        (groups, "other groups"),
        ({"search": good["search"]}, "lacks state"),
        (altered(good, search={**good["search"], "density": 0.4}), "another density"),
        (altered(good, search={**good["search"], "method": "frozen"}), "another method"),
        ({}, "lacks search"),
    ):
        with pytest.raises(ValueError, match=message):
            search.load_state_dict(state)
        after = (search.state_dict(), model.state_dict())
        assert same(before, after)
    search.load_state_dict(good)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_model_loaded_from_the_same_checkpoint_may_come_first(batch):
    model = drawn()
    search = search_on(model)
    train(model, search, batch, 3)
    saved = copy.deepcopy((model.state_dict(), search.state_dict()))
    later = drawn()
    later.load_state_dict(saved[0])
    resumed = search_on(later)  # its frozen weights are those under the mask
    resumed.load_state_dict(saved[1])
    assert train(later, resumed, batch, 3) == train(model, search, batch, 3) and equal(search, resumed)
    assert resumed.ticket().strong


# Company.


def test_two_searches_on_parts_of_a_model_both_work(batch):
    def run(together: bool):
        model = drawn()
        parts = [search_on(model, density=0.5, exclude=["output.*", "hidden.*"])]
        if together:
            parts.append(search_on(model, density=0.25, exclude=["conv.*"]))
        return model, parts

    model, (first, second) = run(True)
    starts = [{name: s.clone() for name, s in search.scores.items()} for search in (first, second)]
    for _ in range(3):
        first.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        first.step()
        second.step()
    for search, start in zip((first, second), starts, strict=True):
        assert all(not torch.equal(start[name], score) for name, score in search.scores.items())
    assert {n: int(m.sum()) for n, m in {**first.mask, **second.mask}.items()} == {
        **first.keep,
        **second.keep,
    }
    ticket = sm.Ticket.of(model, {**first.mask, **second.mask})
    assert ticket.strong and torch.equal(ticket.apply(SmallNet()).output.weight, model.output.weight)


def test_two_searches_on_the_same_weights_are_refused_until_they_are_drawn_again(batch):
    model = drawn()
    first = search_on(model)
    StepLR(first, 1)
    with pytest.raises(ValueError, match=r"another search holds conv\.weight"):
        search_on(model)
    assert train(model, first, batch, 2)
    sm.randomize_(model, seed=0)
    second = search_on(model)
    assert torch.equal(second.weights["conv.weight"], first.weights["conv.weight"])
    del first
    third_model, third = copy.deepcopy((model, second))
    with pytest.raises(ValueError, match="another search holds"):
        search_on(third_model)
    del third, second
    search_on(third_model)
    search_on(model)  # nobody holds it any more, though a scheduler's cycle kept the first one for a while


def test_a_head_that_another_optimizer_trains_is_left_to_it(batch):
    model = drawn(exclude=["output.*"])
    model.output.weight.requires_grad_(True)
    head = torch.optim.SGD(model.output.parameters(), lr=0.1)
    before = model.output.weight.clone()
    search = search_on(model, exclude=["output.*"])
    for _ in range(3):
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        search.step()
        head.step()
        search.zero_grad()
    assert not torch.equal(before, model.output.weight)
    model = drawn()
    model.conv.bias.requires_grad_(True)
    with pytest.warns(FrozenParameterWarning, match=r"stops the gradients of conv\.bias, .*exclude="):
        search_on(model)
    assert not model.conv.bias.requires_grad


def test_a_search_whose_parameters_were_replaced_says_so_at_its_next_step(batch):
    model = drawn()
    search = search_on(model)
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    with pytest.raises(RuntimeError, match=r"conv\.weight of the model is not the parameter.*assign=True"):
        search.step()


def test_sharded_weights_are_refused_and_a_search_made_before_sharding_stops(tmp_path):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = sm.randomize_(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)))
        search = sm.EdgePopup(model, density=0.5, lr=0.1)
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        for call in (sm.randomize_, lambda m: sm.EdgePopup(m, density=0.5, lr=0.1)):
            with pytest.raises(ValueError, match=r"0\.weight is sharded.*DistributedDataParallel"):
                call(model)
        with pytest.raises(RuntimeError, match=r"0\.weight of the model is not the parameter"):
            search.step()
    finally:
        dist.destroy_process_group()


# What is told.


def test_forgetting_randomize_is_told_once_with_the_remedy():
    with pytest.warns(
        NotDrawnWarning, match=r"not drawn.*conv\.weight.*sm\.randomize_\(model, density=0\.3\)"
    ) as told:
        search_on(SmallNet(), density=0.3)
    assert len(told) == 1 and told[0].filename == __file__
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            search_on(SmallNet(), density=0.3)
    assert [str(w.category.__name__) for w in told] == ["NotDrawnWarning"]


def test_weights_scaled_for_another_density_are_told():
    with pytest.warns(
        OtherDensityWarning, match=r"density 0\.5.* keeps 0\.3; call randomize_\(…, density=0\.3\)"
    ):
        search_on(drawn(0.5), density=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search_on(drawn(0.3), density=0.3)
        search_on(drawn(None), density=0.3)
        search_on(drawn({"conv.weight": 0.5, "hidden.weight": 0.2, "output.weight": 1.0}), density=0.3)
        sm.SEARCHES["zhou"](drawn(0.5), density=0.8, lr=0.1)  # has no density to scale for
        for density in (0.05, 0.2):  # Gem-Miner's own choice, and the density itself
            sm.SEARCHES["gem-miner"](drawn(density), density=0.05, lr=0.1)
