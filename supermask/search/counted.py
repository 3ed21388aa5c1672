"""Searches that know how many steps they have made: for schedules, and for noise that differs by step."""

from typing import Any

from torch import Tensor

from supermask import ops
from supermask.init import derive_key
from supermask.search.base import Search


class CountedSearch(Search):
    """A search with a step counter that its `state_dict` carries."""

    steps_done = 0
    """Steps made; while a step selects its mask, the number of that step, the first being 1."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "steps_done": self.steps_done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.steps_done = int(state_dict["steps_done"])

    def _step_in_parts(self) -> None:
        self.steps_done += 1
        super()._step_in_parts()

    def noise(self, purpose: str, name: str, like: Tensor, scheme: str) -> Tensor:
        """Random values of this step for one layer, shaped like `like`: the stream's next `numel` ones."""
        key = derive_key(purpose, self.seed, name)
        return ops.fill_random(like.new_empty(like.shape), key, scheme, start=self.steps_done * like.numel())
