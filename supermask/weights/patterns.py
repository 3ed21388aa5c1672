"""Patterns of parameter names, as callers give them in `include=`, `exclude=` and `keep=`."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

from supermask.weights.kinds import matches
from supermask.weights.names import aliases_of


class Patterns:
    """The patterns that a caller gave, and which parameters they match."""

    def __init__(
        self, model: nn.Module, include: Iterable[str], exclude: Iterable[str], keep: Iterable[str]
    ) -> None:
        self.include = _listed(include, "include")
        self.exclude = _listed(exclude, "exclude")
        self.keep = _listed(keep, "keep")
        self._names: dict[int, list[str]] = {}
        for name, parameter in aliases_of(model).items():
            self._names.setdefault(id(parameter), []).append(name)
        every = [name for names in self._names.values() for name in names]
        for pattern in (*self.include, *self.exclude, *self.keep):
            if not any(fnmatchcase(name, pattern) for name in every):
                raise ValueError(
                    f"pattern {pattern!r} matches no parameter; names look like {', '.join(every[:3])}, …"
                )

    def match(self, parameter: nn.Parameter, patterns: tuple[str, ...]) -> bool:
        """Whether one of `patterns` matches a name of `parameter`."""
        return any(matches(name, patterns) for name in self._names[id(parameter)])


def _listed(patterns: Iterable[str], argument: str) -> tuple[str, ...]:
    if isinstance(patterns, str):
        raise ValueError(
            f"{argument} takes a list of patterns, not the string {patterns!r}; write [{patterns!r}]"
        )
    return tuple(patterns)
