"""The map of the code in CONTRIBUTING.md, made from the first sentence of every package.

python tools/map_of_rooms.py            prints it
python tools/map_of_rooms.py --write    puts it between the markers in CONTRIBUTING.md
"""

import argparse
import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "supermask"
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- map of the rooms: python tools/map_of_rooms.py --write -->", "<!-- end of the map -->"


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, on one line and without its full stop.

    Raises:
        ValueError: The module has no docstring.
    """
    text = ast.get_docstring(ast.parse(path.read_text()))
    if not text:
        raise ValueError(
            f"{path.relative_to(ROOT)} has no docstring; say in one sentence what the room holds"
        )
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", paragraph)[0].rstrip(".")


def map_of_rooms() -> str:
    """A table in Markdown: every package with what it holds."""
    lines = ["| room | what is in it |", "|---|---|"]
    for face in sorted(PACKAGE.rglob("__init__.py")):
        room = face.parent
        if room == PACKAGE:
            continue
        name = room.relative_to(ROOT).as_posix()
        lines.append(f"| [`{name}/`]({name}) | {first_sentence(face)} |")
    return "\n".join(lines)


def page_with_map(page: str) -> str:
    """CONTRIBUTING.md with the present map between its markers."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{map_of_rooms()}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Print the map, or write it."""
    parser = argparse.ArgumentParser(description="The map of the code in CONTRIBUTING.md.")
    parser.add_argument("--write", action="store_true", help="put it into CONTRIBUTING.md")
    if parser.parse_args().write:
        PAGE.write_text(page_with_map(PAGE.read_text()))
    else:
        print(map_of_rooms())


if __name__ == "__main__":
    main()
