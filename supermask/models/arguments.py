"""Checks of the arguments that a network is built from, which may come from a stranger's file."""

import math
import re
from collections.abc import Mapping, Sequence

Scalar = None | bool | int | float | str
Value = Scalar | list[Scalar]

#: No network of any use needs larger ones, and a hostile file must not choose the size of a loop.
MAX_INTEGER = 2**20
MAX_TEXT = 199
MAX_LIST = 16
MAX_ARGUMENTS = 32

#: Arguments by which timm and torchvision read weights from a file, a cache or the network.
_WEIGHT_SOURCES = re.compile(r"(pretrained|weights|checkpoint|cache).*|file|url|path|hf_hub_id")

_REMEDY = "build the network in Python yourself and put the ticket onto it"


def check_name(name: object) -> str:
    """Return a model name if it is harmless text.

    Raises:
        ValueError: It is not text of a model name's form; hub schemes (``hf-hub:...``) are refused
            because they would download.
    """
    if not isinstance(name, str):
        raise ValueError(f"a model name is text, not {type(name).__name__} ({name!r:.80})")
    if ":" in name:
        raise ValueError(
            f"the model name {name[:80]!r} names a hub or a file, and nothing is downloaded or "
            "read here; use a plain name such as 'resnet-20' or 'timm/resnet18'"
        )
    if not re.fullmatch(rf"[A-Za-z0-9_.\-/]{{1,{MAX_TEXT}}}", name):
        raise ValueError(
            f"{name[:80]!r} is not a model name: letters, digits and _ . - / only, at most "
            f"{MAX_TEXT} of them; list_models() gives the names"
        )
    return name


def check_arguments(arguments: Mapping[str, object]) -> dict[str, Value]:
    """Return a copy of keyword arguments if JSON can hold them and none asks for trained weights.

    Tuples become lists, the form in which they come back from JSON.

    Raises:
        ValueError: A key or value is not allowed; the text says which and what is.
    """
    if len(arguments) > MAX_ARGUMENTS:
        raise ValueError(
            f"{len(arguments)} arguments for one network, and at most {MAX_ARGUMENTS} are taken; {_REMEDY}"
        )
    checked: dict[str, Value] = {}
    for key, value in arguments.items():
        if not isinstance(key, str) or not key.isidentifier() or len(key) > MAX_TEXT:
            raise ValueError(f"{key!r:.80} is not an argument's name; use a Python identifier")
        if _WEIGHT_SOURCES.fullmatch(key):
            raise ValueError(
                f"{key}={value!r:.80} would load weights, and networks are built untrained here; "
                "leave it out, or build the network in Python yourself"
            )
        if isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) > MAX_LIST:
                raise ValueError(
                    f"{key} is a list of {len(value)}, and at most {MAX_LIST} are taken; {_REMEDY}"
                )
            checked[key] = [_check_scalar(key, item) for item in value]
        else:
            checked[key] = _check_scalar(key, value)
    return checked


def check_like_default(name: str, option: str, value: Value, default: object) -> None:
    """Check an option of one of the library's own networks against its default value.

    A bool takes a bool; a float takes a positive number.

    Raises:
        ValueError: The value is of another kind.
    """
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{option} of {name} is true or false, not {value!r}")
    elif isinstance(default, float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value <= 64:  # type: ignore[operator]
            raise ValueError(f"{option} of {name} is a number above 0 and up to 64, not {value!r}")


def check_positive_integer(key: str, value: object) -> int:
    """Return an integer from 1 to 2^20.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_INTEGER:
        raise ValueError(f"{key} is a whole number from 1 to {MAX_INTEGER}, not {value!r:.80}")
    return value


def _check_scalar(key: str, value: object) -> Scalar:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            # Python refuses to print integers of thousands of digits, so the value stays unsaid.
            raise ValueError(f"{key} is beyond ±{MAX_INTEGER}; give a smaller value")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{key} is {value}; give a finite number")
        return value
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise ValueError(f"{key} has {len(value)} characters; give at most {MAX_TEXT}")
        return value
    raise ValueError(
        f"{key} is a {type(value).__name__}, and a network's arguments are numbers, text, true, "
        f"false, None and short lists of those, so that a file can hold them; {_REMEDY}"
    )
