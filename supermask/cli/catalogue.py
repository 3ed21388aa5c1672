"""What the command line knows without torch: its commands and their flags, methods, networks and data sets.

Help, completion and errors of spelling need names and no tensor. `catalogue.json` holds them as the
registries give them; `make catalogue` writes it, and a test compares both. Once the
registries are imported they are asked themselves, so that what a program registers is known, too.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from supermask.cli.flags import Flag, flags_of

PATH = Path(__file__).with_name("catalogue.json")
REGISTRIES = (
    "supermask.experiments",
    *(f"supermask.{room}.registry" for room in ("search", "data", "models")),
)


@dataclass(frozen=True)
class Command:
    """A command that has a configuration.

    Attributes:
        name: Of the command.
        help: What it does, in a few words.
        flags: Its flags, in the order of its configuration.
    """

    name: str
    help: str
    flags: tuple[Flag, ...]


@dataclass(frozen=True)
class Catalogue:
    """Commands, and name → one sentence for what flags can name.

    Attributes:
        commands: Those that have a configuration.
        methods: Of `compare`.
        searches: Methods that `search` takes.
        models: The library's own networks.
        data: Data sets.
    """

    commands: tuple[Command, ...]
    methods: dict[str, str]
    searches: tuple[str, ...]
    models: dict[str, str]
    data: dict[str, str]


def catalogue() -> Catalogue:
    """The registries' own answer if they are imported, and what is written in the package otherwise."""
    imported = any(name in sys.modules for name in REGISTRIES)
    return live() if imported or not PATH.is_file() else _written()


@cache
def _written() -> Catalogue:
    about = json.loads(PATH.read_text(encoding="utf-8"))
    commands = tuple(
        Command(entry["name"], entry["help"], tuple(map(Flag.from_json, entry["flags"])))
        for entry in about.pop("commands")
    )
    return Catalogue(commands, searches=tuple(about.pop("searches")), **about)


def live() -> Catalogue:
    """What is registered now; imports torch."""
    from supermask.data.registry import describe_data
    from supermask.experiments.compare.methods import METHODS
    from supermask.experiments.registry import commands
    from supermask.models.registry import describe_models
    from supermask.report.methods.catalogue import methods_of
    from supermask.search import SEARCHES

    return Catalogue(
        commands=tuple(
            Command(command.name, command.help, flags_of(command.config)) for command in commands().values()
        ),
        methods={name: method.about for name, method in methods_of(METHODS).items()},
        searches=tuple(SEARCHES),
        models=describe_models(),
        data=describe_data(),
    )


def as_text(found: Catalogue) -> str:
    """What `catalogue.json` holds: a line for each flag and each name."""
    about: dict[str, Any] = asdict(found)
    commands = []
    for command in about["commands"]:
        flags = [{key: value for key, value in flag.items() if value != ()} for flag in command["flags"]]
        head = f'{{"name": {_json(command["name"])}, "help": {_json(command["help"])}, "flags": '
        commands.append(f"{head}{_lines(map(_json, flags), '[]')}}}")
    entries = [f'"commands": {_lines(commands, "[]")}', f'"searches": {_json(about["searches"])}']
    for key in ("methods", "models", "data"):
        named = (f"{_json(name)}: {_json(text)}" for name, text in about[key].items())
        entries.append(f'"{key}": {_lines(named, "{}")}')
    return _lines(entries, "{}") + "\n"


def write() -> None:
    """Write `catalogue.json` anew."""
    PATH.write_text(as_text(live()), encoding="utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _lines(items: Iterable[str], brackets: str) -> str:
    return f"{brackets[0]}\n" + ",\n".join(items) + f"\n{brackets[1]}"
