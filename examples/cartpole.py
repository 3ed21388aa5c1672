"""Reinforcement learning: a subnetwork of an untrained network balances the pole.

    python examples/cartpole.py --out runs/cartpole

CartPole-v1 by gymnasium (`pip install .[examples]`); proximal policy optimization (Schulman et al. 2017,
arXiv 1707.06347) with generalized advantages (Schulman et al. 2016, arXiv 1506.02438). Actor and critic are
one network with two halves, and a mask or a ticket covers both. Rewards are scaled by 1 - discount, so that
values lie between 0 and 1; a fifth input that is always 1 stands for the biases, which a frozen network does
not have. A return is the number of steps that the pole stands, 500 at most; the task counts as solved at 475.
The agent that is measured takes its likelier action; every seed has its own weights, games and test games.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from _trio import Example, OnStep, parser, start, trio, write_result
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import supermask as sm
from supermask.training.loop import Schedule

GAMES, LENGTH = 8, 32
"""Games played at a time, and moves of each between two updates."""
PASSES, BATCH = 10, 128
DISCOUNT, SMOOTHING, CLIP = 0.98, 0.8, 0.2
GAIN = 1.0
"""Of the frozen weights: with that of ReLU, √2, an agent is too sure of its first moves."""
EPISODES = 100
SOLVED = 475.0
SCALE = torch.tensor([2.4, 2.0, 0.21, 2.0])
"""Sizes of position, speed, angle and angular speed in a game."""


class Agent(nn.Module):
    """Observations (…, 4) → log-odds of both actions (…, 2) and value (…)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.actor, self.critic = (
            nn.Sequential(
                nn.Linear(5, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
            )
            for outputs in (2, 1)
        )

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        inputs = F.pad(observations / SCALE, (0, 1), value=1.0)
        return self.actor(inputs), self.critic(inputs).squeeze(-1)


def games(count: int) -> Any:
    return gym.make_vec("CartPole-v1", num_envs=count, vectorization_mode="vector_entry_point")


def advantages(rewards: Tensor, values: Tensor, terminated: Tensor, ended: Tensor) -> Tensor:
    """Generalized advantages, (T, games).

    Args:
        rewards: (T, games).
        values: (T + 1, games), the last for the observation after the last move.
        terminated: (T, games) bool, the pole fell: nothing follows.
        ended: (T, games) bool, it fell or time was up: what follows is another game.
    """
    errors = rewards + DISCOUNT * values[1:] * ~terminated - values[:-1]
    result = torch.zeros_like(errors)
    following = torch.zeros_like(errors[0])
    for t in reversed(range(len(errors))):
        following = errors[t] + DISCOUNT * SMOOTHING * following * ~ended[t]
        result[t] = following
    return result


class Player:
    """Plays `GAMES` games at a time and remembers where they stand."""

    def __init__(self, seed: int) -> None:
        self.games = games(GAMES)
        self.observation = torch.from_numpy(self.games.reset(seed=seed)[0])
        self.ended = torch.zeros(GAMES, dtype=torch.bool)

    @torch.no_grad()
    def play(self, agent: nn.Module) -> tuple[Tensor, ...]:
        """Observations, actions, their log-probabilities, advantages and returns of `LENGTH` moves."""
        moves: list[tuple[Tensor, ...]] = []
        for _ in range(LENGTH):
            logits, value = agent(self.observation)
            actions = torch.distributions.Categorical(logits=logits).sample()
            after, reward, terminated, truncated, _ = self.games.step(actions.numpy())
            fell = torch.from_numpy(terminated.copy())
            over = torch.from_numpy(truncated.copy()) | fell
            reward = torch.from_numpy(reward) * (1 - DISCOUNT)
            # After the end of a game the next move only begins another: nothing is learned from it.
            moves.append((self.observation, actions, logits, value, reward, fell, over, ~self.ended))
            self.observation, self.ended = torch.from_numpy(after), over
        seen, actions, logits, values, rewards, fell, over, real = map(torch.stack, zip(*moves, strict=True))
        last = agent(self.observation)[1]
        gained = advantages(rewards, torch.cat([values, last[None]]), fell, over)
        chosen = logits.log_softmax(-1).gather(-1, actions[..., None]).squeeze(-1)
        return tuple(x[real] for x in (seen, actions, chosen, gained, gained + values))


def surrogate(agent: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """The loss of PPO, equation 9, without the entropy term."""
    seen, actions, before, gained, returns = batch
    logits, values = agent(seen)
    now = logits.log_softmax(-1).gather(-1, actions[:, None]).squeeze(-1)
    ratio = (now - before).exp()
    gained = (gained - gained.mean()) / (gained.std() + 1e-8)
    policy = torch.minimum(ratio * gained, ratio.clamp(1 - CLIP, 1 + CLIP) * gained).mean()
    return 0.5 * F.mse_loss(values, returns) - policy


def loop(
    agent: nn.Module, optimizer: Optimizer, first: int, on_step: OnStep, *, steps: int, seed: int
) -> None:
    """Play and learn, `steps` times; the learning rate falls to zero."""
    torch.manual_seed(seed)
    player, rate = Player(seed), Schedule("cosine", steps)
    schedule = LambdaLR(optimizer, lambda done: rate(first + done))
    for step in range(first, steps):
        played = player.play(agent)
        for _ in range(PASSES):
            for chosen in torch.randperm(len(played[0])).split(BATCH):
                optimizer.zero_grad()
                surrogate(agent, tuple(x[chosen] for x in played)).backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
        schedule.step()
        on_step(step + 1)


@torch.no_grad()
def measure(agent: nn.Module, seed: int) -> dict[str, float]:
    """Mean return over `EPISODES` games, by the likelier action."""
    playing = games(EPISODES)
    observation, _ = playing.reset(seed=seed)
    standing, returns = np.ones(EPISODES, bool), np.zeros(EPISODES)
    while standing.any():
        actions = agent(torch.from_numpy(observation))[0].argmax(-1).numpy()
        observation, _, terminated, truncated, _ = playing.step(actions)
        returns += standing
        standing &= ~(terminated | truncated)
    return {"mean_return": float(returns.mean())}


def example(options: Any, seed: int) -> Example:
    """The task with everything drawn from one seed."""
    return Example(
        network=partial(Agent, options.width),
        trainer=lambda model: torch.optim.Adam(model.parameters(), lr=options.lr),
        draw=lambda model: sm.randomize_(model, seed=seed, density=options.density, gain=GAIN),
        search=lambda model: sm.EdgePopup(
            model, density=options.density, lr=options.search_lr, base="adam", seed=seed
        ),
        loop=partial(loop, steps=options.steps, seed=seed),
        measure=partial(measure, seed=seed + (2_000_000 if options.validation else 1_000_000)),
    )


def over_seeds(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each method: mean return over seeds, the lowest, and the share that solves the task."""
    rows = []
    for name in dict.fromkeys(row["method"] for row in found):
        own = [row for row in found if row["method"] == name]
        returns = [row["mean_return"] for row in own]
        rows.append(
            {
                "method": name,
                "density": own[0]["density"],
                "mean_return": sum(returns) / len(returns),
                "lowest": min(returns),
                "solved": sum(value >= SOLVED for value in returns) / len(returns),
                "seconds": sum(row["seconds"] for row in own),
                "returns": returns,
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    flags = parser(__doc__, steps=120, density=0.5)
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags.add_argument("--width", type=int, default=128)
    flags.add_argument("--lr", type=float, default=1e-3, help="of the weights")
    flags.add_argument("--search-lr", type=float, default=3e-3, help="of the scores")
    flags.add_argument("--rounds", type=int, default=2, help="of IMP")
    options = start(flags, arguments)
    found = []
    for seed in options.seeds:
        folder = options.out / f"seed-{seed}"
        folder.mkdir(exist_ok=True)
        found += trio(
            example(options, seed),
            density=options.density,
            rounds=options.rounds,
            rewind_to=options.steps // 20,
            seed=seed,
            out=folder,
        )
    about = {
        "task": "CartPole-v1", "moves": options.steps * GAMES * LENGTH, "seeds": options.seeds,
        "episodes": EPISODES, "width": options.width, "lr": options.lr, "search_lr": options.search_lr,
        "gain": GAIN, "rounds": options.rounds,
    }  # fmt: skip
    measures = {"mean_return": "mean return", "lowest": "lowest of a seed", "solved": "seeds solved, %"}
    return write_result("cartpole", options, about=about, measures=measures, rows=over_seeds(found))


if __name__ == "__main__":
    main()
