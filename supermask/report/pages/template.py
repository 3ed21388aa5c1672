"""Pages from templates: everything from a document is escaped, only our own SVG and CSS are not."""

import base64
import hashlib
import re
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from supermask.report import formatting
from supermask.report.figures.style import THEME, themed


def render_template(name: str, **values: Any) -> str:
    """A page from one of our templates, with the style and the theme of all pages."""
    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    script = _resource("report.js")
    return environment.get_template(name).render(
        **values, style=_resource("style.css"), theme=THEME, script=script, script_hash=_hash(script)
    )


def _hash(script: str) -> str:
    """What a Content-Security-Policy calls a script that may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _resource(name: str) -> str:
    return resources.files("supermask.report").joinpath("templates", name).read_text(encoding="utf-8")


def _unbroken(sentence: str) -> str:
    """Keeps numbers with what they belong to at the end of a line."""
    return re.sub(r"(?<=\d) (?=%|[kMG]?B\b)|(?<=\bdensity) ", "\N{NO-BREAK SPACE}", sentence)


_FILTERS = {
    "bytes": formatting.bytes_text,
    "count": formatting.count_text,
    "large": formatting.large_count_text,
    "density": formatting.density_text,
    "duration": formatting.duration_text,
    "percent": formatting.percent,
    "points": formatting.points,
    "ratio": formatting.ratio_text,
    "sparsity": formatting.sparsity_text,
    "themed": themed,
    "unbroken": _unbroken,
    "value": formatting.value_text,
}
