"""Many masks on one network: Wortsman et al., "Supermasks in Superposition" (NeurIPS 2020).

One network with weights frozen as drawn from a seed serves many tasks, each by a mask of its own. When a
batch comes without the name of its task, the task is inferred from the masks alone: all of them are laid
over each other, M(α) = Σ α_i·M_i with α_i = 1/k, and the task is the one whose coefficient would lower the
entropy of the outputs fastest, argmin_i ∂H/∂α_i (section 3.3, one-shot). With many tasks the binary form
keeps the better half of the candidates, again and again. Beside the entropy stands the paper's objective G:
the log-sum-exp of the outputs, of which only the superfluous ones, those that no task uses, pass a gradient.

The gradient of every α_i comes from one backward pass: ∂H/∂α_i = Σ (∂H/∂W_eff ⊙ W) over the weights that
mask i keeps. Norms use the statistics of the batch while a task is inferred, as in the authors' code.

Ours: `exhaustive` looks at each mask alone and takes the one of lowest entropy; it costs k passes instead
of one or two, and is the surest where tasks differ by their classes alone. The paper's tasks without names
differ by a transformation of the images, and there the gradient is enough.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from supermask.models.batch_statistics import batch_statistics
from supermask.tickets.load import load
from supermask.tickets.ticket import Ticket
from supermask.weights.init import init_of
from supermask.weights.names import parameters_of, unwrap

OBJECTIVES = ("entropy", "superfluous")
METHODS = ("one-shot", "binary", "exhaustive")


class Superposition:
    """One frozen network and one strong ticket for each task.

    Args:
        model: A network drawn by `randomize_`. Norm statistics belong to a task and are in its ticket.

    Raises:
        ValueError: The model was not drawn from a seed.
    """

    def __init__(self, model: nn.Module) -> None:
        record = init_of(model)
        if record is None:
            raise ValueError("the masks of a superposition share a seed; draw the model by randomize_ first")
        self.model = model
        self.tickets: list[Ticket] = []
        self._record = record
        parameters = parameters_of(model)
        self._weights = {
            draw.name: draw.weight(record.seed, parameters[draw.name].dtype, parameters[draw.name].device)
            for draw in record.draws
            if draw.masked
        }

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self.tickets)

    @property
    def mask_bytes(self) -> int:
        """Bytes of all masks together: one bit for each weight and task."""
        return sum(mask.numel() for ticket in self.tickets for mask in ticket.masks.values())

    def add(self, ticket: Ticket) -> int:
        """Add a task by its ticket, such as `search.ticket()`, and return its number.

        Raises:
            ValueError: The ticket's weights are not this network's, or it stores trained values.
        """
        ours = {draw.name: draw for draw in self._record.draws}
        theirs = {entry.name: entry.draw for entry in ticket.entries if entry.name in ours}
        if not ticket.strong or ticket.seed != self._record.seed or ours != theirs:
            raise ValueError(
                f"the ticket (seed {ticket.seed}, init {ticket.init}) is not a mask on this network (seed "
                f"{self._record.seed}, init {self._record.init}); search it on the network as reset() "
                "leaves it, without training norms"
            )
        # The ticket of a model at hand may hold its very buffers, which the next task will change.
        own = {name: buffer.clone() for name, buffer in ticket.buffers.items()}
        self.tickets.append(replace(ticket, buffers=own))
        return len(self.tickets) - 1

    @torch.no_grad()
    def reset(self) -> nn.Module:
        """The network as drawn: all weights, and fresh norm statistics. Begin a search for a task here."""
        inner, parameters = unwrap(self.model), parameters_of(self.model)
        for name, weight in self._weights.items():
            parameters[name].copy_(weight)
        for module in inner.modules():
            if callable(reset := getattr(module, "reset_running_stats", None)):
                reset()
        return self.model

    def activate(self, task: int) -> nn.Module:
        """The network as the ticket of `task` has it.

        Raises:
            IndexError: There is no such task.
        """
        if not 0 <= task < len(self):
            raise IndexError(f"there is no task {task}; the tasks are 0 to {len(self) - 1}")
        return self.tickets[task].apply(self.model)

    def infer_task(
        self,
        inputs: Tensor,
        *,
        objective: str = "entropy",
        method: str = "one-shot",
        real_outputs: int | None = None,
    ) -> int:
        """The task that a batch belongs to, as the masks tell.

        Args:
            inputs: One batch (N, …), all of one task; a few inputs do.
            objective: `entropy`, or `superfluous` (the paper's G).
            method: `one-shot`, `binary` (log₂ k steps; the better half stays each time) or `exhaustive`
                (the lowest entropy under each mask alone).
            real_outputs: How many outputs the tasks use, the first ones; for `superfluous`.

        Raises:
            ValueError: No task, an unknown objective or method, or no superfluous outputs.
        """
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
        if method == "exhaustive":
            if objective != "entropy":
                raise ValueError(f"the exhaustive method compares entropies and has no {objective!r} form")
            return int(torch.argmin(self.entropies(inputs)))
        candidates = list(range(len(self)))
        while True:
            gradient = self.task_gradient(inputs, candidates, objective=objective, real_outputs=real_outputs)
            order = torch.argsort(gradient, stable=True).tolist()
            if method == "one-shot" or len(candidates) <= 2:
                return candidates[order[0]]
            candidates = sorted(candidates[i] for i in order[: (len(candidates) + 1) // 2])

    def task_gradient(
        self,
        inputs: Tensor,
        tasks: Sequence[int] | None = None,
        *,
        objective: str = "entropy",
        real_outputs: int | None = None,
    ) -> Tensor:
        """∂objective/∂α of each of `tasks` (all by default) at equal α, float64 (k,) on the CPU.

        The model's parameters are not touched. See `infer_task` for the arguments and errors.
        """
        tasks = range(len(self)) if tasks is None else tasks
        if not tasks:
            raise ValueError("there is no task yet; add() a ticket first")
        mixed = {name: w.requires_grad_(True) for name, w in self._effective(tasks).items()}
        with torch.enable_grad():
            value = self._value(mixed, inputs, objective, real_outputs)
        gradients = torch.autograd.grad(value, list(mixed.values()))
        slopes = {n: (g * self._weights[n]).double() for n, g in zip(mixed, gradients, strict=True)}
        found = torch.zeros(len(tasks), dtype=torch.float64)
        for index, task in enumerate(tasks):
            for name, mask in self.tickets[task].mask().items():
                slope = slopes[name]
                found[index] += slope[mask.to(slope.device)].sum().cpu()
        return found

    @torch.no_grad()
    def entropies(self, inputs: Tensor) -> Tensor:
        """Mean entropy of the outputs under each mask alone, float64 (k,) on the CPU."""
        values = [self._value(self._effective([task]), inputs) for task in range(len(self))]
        if not values:
            raise ValueError("there is no task yet; add() a ticket first")
        return torch.stack(values).double().cpu()

    def _effective(self, tasks: Sequence[int]) -> dict[str, Tensor]:
        """W ⊙ the mean of the tasks' masks."""
        masks = [self.tickets[task].mask() for task in tasks]
        return {
            name: weight * torch.stack([m[name] for m in masks]).sum(dim=0).to(weight).div_(len(masks))
            for name, weight in self._weights.items()
        }

    def _value(
        self,
        weights: dict[str, Tensor],
        inputs: Tensor,
        objective: str = "entropy",
        real_outputs: int | None = None,
    ) -> Tensor:
        inner, parameters = unwrap(self.model), parameters_of(self.model)
        inside = {id(parameter): name for name, parameter in inner.named_parameters()}  # wrapped parts' names
        given = {inside[id(parameters[name])]: weight for name, weight in weights.items()}
        with batch_statistics(inner):
            return _objective(torch.func.functional_call(inner, given, (inputs,)), objective, real_outputs)

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write one ticket for each task into `folder`: the seed, and at most one bit for each weight.

        Raises:
            OSError: The folder cannot be made or written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return [ticket.save(folder / f"task-{task:04d}.ticket") for task, ticket in enumerate(self.tickets)]

    @classmethod
    def load(cls, folder: str | os.PathLike[str], model: nn.Module | None = None) -> Self:
        """Read what `save` wrote.

        Args:
            folder: The folder of tickets.
            model: A network of the right structure; None builds the one that the tickets name.

        Raises:
            FileNotFoundError: There is no ticket in the folder.
            TicketError: A ticket is damaged, or `model` is another network.
            ValueError: The tickets are not masks on one network.
        """
        paths = sorted(Path(folder).glob("task-*.ticket"))
        if not paths:
            raise FileNotFoundError(f"no task-*.ticket in {folder}; give the folder that save() wrote")
        tickets = [Ticket.load(path) for path in paths]
        superposition = cls(load(paths[0]) if model is None else tickets[0].apply(model))
        for ticket in tickets:
            superposition.add(ticket)
        return superposition


def _objective(logits: Tensor, objective: str, real_outputs: int | None) -> Tensor:
    if objective == "entropy":
        return -(logits.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1).mean()
    if objective != "superfluous":
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, not {objective!r}")
    if real_outputs is None or not 0 < real_outputs < logits.shape[1]:
        raise ValueError(
            f"the superfluous outputs are those after the first real_outputs, of {logits.shape[1]} in all; "
            f"real_outputs must lie between 1 and {logits.shape[1] - 1}, not {real_outputs!r}"
        )
    real, superfluous = logits[:, :real_outputs].detach(), logits[:, real_outputs:]
    return torch.cat([real, superfluous], dim=1).logsumexp(dim=1).mean()
