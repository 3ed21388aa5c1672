"""What a command says of a wrong value, and what a search or a method says to a command."""

from typing import Any


class ConfigError(ValueError):
    """A wrong value: its name, the value and the remedy."""

    def __init__(self, name: str, value: Any, remedy: str) -> None:
        shown = " ".join(map(repr, value)) if isinstance(value, tuple) and value else repr(value)
        super().__init__(f"--{name.replace('_', '-')} {shown}: {remedy}")
        self._made_of = name, value, remedy

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[str, Any, str], dict[str, Any]]:
        return type(self), self._made_of, vars(self)  # notes among them


class RefusedError(ValueError):
    """A search does not take what it was given.

    Attributes:
        field: Of its `MaskSource`, what is at fault; or `method`, where that cannot be told.
        value: What was given.
    """

    def __init__(self, field: str, value: Any, message: str) -> None:
        self.field, self.value = field, value
        super().__init__(message)


class NotApplicable(ValueError):
    """A method has no meaning for the network at hand; the message says why."""
