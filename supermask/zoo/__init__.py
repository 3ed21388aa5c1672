"""The zoo: tickets that ship with the library, each with a card of what it is and how it was made.

`supermask.load("zoo:mnist-lenet-300-100")` takes one as any other ticket, and so does every command.
`tools/build_zoo.py` makes them from recipes of this repository. Nothing here imports torch.
"""

import json
from pathlib import Path
from typing import Any

from supermask.suggest import ending

PREFIX = "zoo:"
FOLDER = Path(__file__).parent


def list_tickets() -> list[str]:
    """Names of the tickets that ship with the library; `load("zoo:<name>")` loads one."""
    return sorted(path.stem for path in FOLDER.glob("*.ticket"))


def ticket_file(name: str) -> Path:
    """The file of a ticket.

    Args:
        name: With or without `zoo:`.

    Raises:
        FileNotFoundError: There is no ticket of that name; the message says which was perhaps meant.
    """
    bare, known = name.removeprefix(PREFIX), list_tickets()
    if bare not in known:
        hint = ending(PREFIX + bare, (PREFIX + other for other in known))
        raise FileNotFoundError(
            f"there is no ticket {bare!r:.80} in the zoo; `supermask zoo` lists all{hint}"
        )
    return FOLDER / f"{bare}.ticket"


def ticket_card(name: str) -> dict[str, Any]:
    """What is known of a ticket.

    Returns:
        `name`, `about`, `data`, `model`, `method`, `density`, `seed`, `accuracy` on the test split (a
        fraction), `bytes`, `dense_bytes`, `multiply_adds` for one example, `recipe`, and `made`: the versions
        and the machine.

    Raises:
        FileNotFoundError: There is no ticket of that name.
    """
    card: dict[str, Any] = json.loads(ticket_file(name).with_suffix(".json").read_text(encoding="utf-8"))
    return card
