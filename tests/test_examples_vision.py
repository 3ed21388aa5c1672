"""The examples on images and games: their formulas by other ways of computing, and a few steps of each."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask.data import load_data
from supermask.io import read_json

from .test_examples_text import TRIO
from .test_examples_text import example as example


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Adversarial training.


def test_an_attack_stays_in_its_ball_and_raises_the_loss(example):
    module, data = example("adversarial"), load_data("digits")
    torch.manual_seed(0)
    model = module.network(data, 8)
    images, labels = data.train.pixels[:64] / 255, data.train.labels[:64]
    for eps in (0.05, 0.3):
        attacked = module.test_attack(model, images, labels, eps)
        assert (attacked - images).abs().max() <= eps + 1e-6
        assert attacked.min() >= 0 and attacked.max() <= 1 and not attacked.requires_grad
        near = (images + eps * (2 * torch.rand(images.shape, generator=generator(1)) - 1)).clamp(0, 1)
        errors = [F.cross_entropy(model(x), labels).item() for x in (images, near, attacked)]
        assert errors[2] > max(errors[:2])
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["training_attack", "test_attack"])
def test_an_attack_on_a_linear_model_ends_in_the_worst_corner(example, name):
    # With two classes the gradient has one direction everywhere: the worst point is known.
    module = example("adversarial")
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    images = torch.rand(5, 3, 2, 2, generator=generator(2))
    labels = torch.tensor([0, 1, 0, 1, 1])
    weight = model[1].weight.detach().view(2, 3, 2, 2)
    corner = images + 0.2 * torch.sign(weight[1 - labels] - weight[labels])
    attacked = getattr(module, name)(model, images, labels, 0.2)
    torch.testing.assert_close(attacked, corner.clamp(0, 1), rtol=0, atol=1e-6)


def test_images_in_the_order_of_their_classes_are_drawn_from_all_of_them(example):
    images = load_data("digits").train
    order = images.labels.argsort()
    few = example("adversarial").spread(images.take(order), 100)
    assert len(few) == 100 and few.labels.bincount().min() >= 7
    assert len(example("adversarial").spread(images, 10**6)) == len(images)


# Contrastive learning.


def test_nt_xent_is_the_sum_over_all_pairs(example):
    first, second = (torch.randn(6, 5, generator=generator(seed)) for seed in (3, 4))
    codes = np.concatenate([first.double().numpy(), second.double().numpy()])
    total = 0.0
    for i in range(12):
        similar = [
            math.exp(codes[i] @ codes[k] / np.linalg.norm(codes[i]) / np.linalg.norm(codes[k]) / 0.3)
            for k in range(12)
        ]
        total -= math.log(similar[(i + 6) % 12] / (sum(similar) - similar[i]))
    assert example("contrastive").nt_xent(first, second, 0.3).item() == pytest.approx(total / 12, rel=1e-5)


def test_a_view_is_another_part_of_the_same_image(example):
    view = example("contrastive").view
    torch.manual_seed(0)
    ramp = torch.linspace(0.3, 0.5, 32).expand(200, 1, 32, 32)
    seen = view(ramp)
    assert seen.shape == ramp.shape and seen.min() >= 0 and seen.max() <= 1
    slopes = seen[:, 0, :, 17] - seen[:, 0, :, 15]
    torch.testing.assert_close(slopes.std(1), torch.zeros(200), rtol=0, atol=1e-5)  # still a ramp
    assert (slopes > 0).all()  # without colours nothing is mirrored
    coloured = view(ramp.repeat(1, 3, 1, 1) * torch.tensor([1.0, 0.8, 0.6]).view(3, 1, 1))
    mirrored = (coloured[:, 0, 16, 17] < coloured[:, 0, 16, 15]).float().mean()
    grey = (coloured.std(1).amax((1, 2)) < 1e-6).float().mean()
    assert 0.35 < mirrored < 0.65 and 0.1 < grey < 0.3


def test_the_probe_finds_what_is_linear_and_nothing_else(example):
    probe = example("contrastive").probe
    features = torch.randn(600, 8, generator=generator(5))
    labels = (features[:, 0] + features[:, 3] > 0).long()
    assert probe(features[:400], labels[:400], features[400:], labels[400:]) > 0.97
    parity = ((features[:, 0] > 0) ^ (features[:, 3] > 0)).long()
    assert probe(features[:400], parity[:400], features[400:], parity[400:]) < 0.65


# CartPole.


def test_advantages_are_sums_of_discounted_errors(example):
    pytest.importorskip("gymnasium")
    module = example("cartpole")
    rewards, values = (torch.rand(n, 3, generator=generator(n)) for n in (9, 10))
    terminated, truncated = torch.zeros(2, 9, 3, dtype=torch.bool)
    terminated[2, 0] = terminated[5, 1] = truncated[4, 0] = True
    found = module.advantages(rewards, values, terminated, terminated | truncated)
    for game in range(3):
        for start in range(9):
            total = 0.0
            for t in range(start, 9):
                following = 0.0 if terminated[t, game] else float(values[t + 1, game])
                error = float(rewards[t, game]) + module.DISCOUNT * following - float(values[t, game])
                total += (module.DISCOUNT * module.SMOOTHING) ** (t - start) * error
                if terminated[t, game] or truncated[t, game]:
                    break
            assert float(found[start, game]) == pytest.approx(total, abs=1e-5)


def test_the_loss_is_the_clipped_surrogate(example):
    pytest.importorskip("gymnasium")
    module = example("cartpole")
    torch.manual_seed(0)
    agent = module.Agent(16)
    seen, actions = torch.randn(40, 4), torch.randint(2, (40,))
    before, gained, returns = torch.randn(40) - 1, torch.randn(40), torch.rand(40)
    logits, values = (x.detach().double().numpy() for x in agent(seen))
    total, errors = 0.0, 0.0
    scaled = (gained.double().numpy() - gained.double().mean().item()) / gained.double().std().item()
    clipped = 0
    for i in range(40):
        odds = np.exp(logits[i])
        ratio = odds[actions[i]] / odds.sum() / math.exp(before[i])
        total += min(ratio * scaled[i], min(max(ratio, 0.8), 1.2) * scaled[i])
        clipped += min(max(ratio, 0.8), 1.2) * scaled[i] < ratio * scaled[i]
        errors += (values[i] - float(returns[i])) ** 2
    assert clipped > 5
    loss = module.surrogate(agent, (seen, actions, before, gained, returns))
    assert loss.item() == pytest.approx(0.5 * errors / 40 - total / 40, rel=1e-4)


class Policy(nn.Module):
    """Pushes to the right where a linear function of the observation is not negative."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weights, self.place = torch.tensor(weights), nn.Parameter(torch.zeros(1))

    def forward(self, observations):
        right = torch.where(observations @ self.weights >= 0, 100.0, -100.0)
        return torch.stack([-right, right], -1), torch.zeros(observations.shape[:-1])


def test_returns_are_the_lengths_of_games(example):
    gym = pytest.importorskip("gymnasium")
    module = example("cartpole")
    assert module.measure(Policy(0.1, 0.2, 1.0, 1.0), 0) == {"mean_return": 500.0}
    lengths, env = [], gym.make("CartPole-v1")
    for seed in range(100):
        env.reset(seed=seed)
        moves = 1
        while not env.step(1)[2]:
            moves += 1
        lengths.append(moves)
    assert module.measure(Policy(0.0, 0.0, 0.0, 0.0), 0)["mean_return"] == pytest.approx(
        np.mean(lengths), abs=0.3
    )


def test_nothing_is_learned_from_the_move_after_the_end_of_a_game(example):
    pytest.importorskip("gymnasium")
    module = example("cartpole")
    torch.manual_seed(0)
    player = module.Player(seed=0)
    parts = [player.play(Policy(0.0, 0.0, 0.0, 0.0)) for _ in range(4)]
    seen, actions, chosen, gained, _ = (torch.cat(x) for x in zip(*parts, strict=True))
    assert (actions == 1).all() and (chosen == 0).all()
    assert (seen[:, 2].abs() < 0.2095).all() and len(seen) < 4 * module.LENGTH * module.GAMES
    # Values are 0, so an advantage is the reward of the rest of the game, each move worth 1 - discount.
    assert gained.min() == pytest.approx(1 - module.DISCOUNT) and gained.max() < 12 * (1 - module.DISCOUNT)


# Whole scripts.

RUNS = {
    "adversarial": ("--data digits --steps 8 --width 4", {"unprotected"}),
    "contrastive": ("--data digits --steps 3 --width 8 --labelled 500", {"untrained"}),
    "cartpole": ("--steps 2 --width 8 --seeds 3 4", set()),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_script_does_its_task_three_ways(example, name, tmp_path):
    if name == "cartpole":
        pytest.importorskip("gymnasium")
    flags, others = RUNS[name]
    result = example(name).main([*flags.split(), "--density", "0.4", "--out", str(tmp_path)])
    assert read_json(tmp_path / f"{name}.json") == result
    rows = {row["method"]: row for row in result["rows"]}
    assert set(rows) == TRIO | others
    assert all(math.isfinite(row[key]) for row in rows.values() for key in result["measures"])
    folders = [tmp_path / f"seed-{seed}" for seed in (3, 4)] if name == "cartpole" else [tmp_path]
    for folder in folders:
        for method in TRIO - {"dense"}:
            ticket = sm.Ticket.load(folder / f"{method}.ticket")
            assert ticket.density == pytest.approx(0.4, abs=0.01)
            assert ticket.strong == (method != "imp")
