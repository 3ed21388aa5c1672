"""What a command says of a wrong value."""

from typing import Any


class ConfigError(ValueError):
    """A wrong value: its name, the value and the remedy."""

    def __init__(self, name: str, value: Any, remedy: str) -> None:
        super().__init__(f"--{name.replace('_', '-')} {value!r}: {remedy}")
        self._made_of = name, value, remedy

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[str, Any, str], dict[str, Any]]:
        return type(self), self._made_of, vars(self)  # notes among them
