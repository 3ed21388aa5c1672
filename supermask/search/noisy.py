"""Searches whose training draws noise that differs from step to step."""

from torch import Tensor

from supermask import ops
from supermask.search.base import Search
from supermask.weights.init import derive_key


class NoisySearch(Search):
    """A search that draws from the generator, at a place that follows from the step number."""

    def noise(self, purpose: str, name: str, like: Tensor, scheme: str) -> Tensor:
        """Random values of this step for one layer, shaped like `like`: the stream's next `numel` ones."""
        key = derive_key(purpose, self.seed, name)
        return ops.fill_random(like.new_empty(like.shape), key, scheme, start=self.steps * like.numel())
