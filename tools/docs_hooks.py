"""Hooks of the documentation site: the README as its first page, tutorials, and the files that pages link to.

Pages of docs/ link to `../recipes/…`, `../examples/…` and pictures under `../benchmarks/`, as they must on a
code host. Here every such file becomes a page or a picture of the site, so that a reader never leaves it.
Tutorials are pages made of the notebooks that `tools/notebooks.py` executed, with their outputs.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert.exporters import MarkdownExporter

LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")
WITH_ANCHOR = re.compile(LINK.pattern + r"(#[^)\s]*)?")
WHOLE_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
"""Files at the root of the repository that are pages of the site."""
PICTURES = {".png", ".svg", ".jpg"}
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".cpp": "cpp", ".h": "cpp"}


def on_files(files: Files, config: Any) -> Files:
    """Add the README, CONTRIBUTING and whatever pages link to outside docs/."""
    root = Path(config.config_file_path).parent
    for source, page in WHOLE_PAGES.items():
        files.append(File.generated(config, page, content=(root / source).read_text(encoding="utf-8")))
    for file in _tutorials(config, root):
        files.append(file)
    pages = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    for uri, text in pages:
        for target in LINK.findall(text):
            path = _in_repository(uri, target)
            there = path is not None and (root / path).exists()
            if path is not None and there and not files.get_file_from_path(_uri(root, path)):
                files.append(_generated(config, root, path))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Let links that leave docs/ lead to the pages that `on_files` added."""
    root = Path(config.config_file_path).parent

    def inside(match: re.Match[str]) -> str:
        path = _in_repository(page.file.src_uri, match.group(1))
        if path is None:
            return match.group(1)
        return posixpath.relpath(_uri(root, path), posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(inside, markdown)


def _tutorials(config: Any, root: Path) -> list[File]:
    """A page for each tutorial, the pictures that it drew, and the executed notebook to take away."""
    files = []
    for source in sorted((root / "docs" / "tutorials").glob("*.py")):
        name = source.stem
        notebook = root / "build" / "tutorials" / f"{name}.ipynb"
        if not notebook.exists():
            raise PluginError(f"{notebook} is missing: run `make docs`, which executes the tutorials")
        about = {"unique_key": name, "output_files_dir": f"{name}_files"}
        text, found = MarkdownExporter().from_filename(str(notebook), resources=about)
        text += f"\n\nThis page [as a notebook]({name}.ipynb), with its outputs.\n"
        contents = {f"{name}.md": text, f"{name}.ipynb": notebook.read_bytes(), **found["outputs"]}
        files += [File.generated(config, f"tutorials/{uri}", content=c) for uri, c in contents.items()]
    return files


def _in_repository(uri: str, target: str) -> str | None:
    """The path in the repository that a link means; None where it stays among the pages of docs/."""
    whole = {page: source for source, page in WHOLE_PAGES.items()}
    if uri.startswith("repo/"):
        return None
    base = posixpath.dirname(whole.get(uri) or f"docs/{uri}")
    path = posixpath.normpath(posixpath.join(base, target))
    if path.startswith("docs/") and uri not in whole:
        return None
    return path


def _uri(root: Path, path: str) -> str:
    """Where a path of the repository stands in the site."""
    if path in WHOLE_PAGES:
        return WHOLE_PAGES[path]
    if path.startswith("docs/"):
        return re.sub(r"(?<=^tutorials/)(.*)\.py$", r"\1.md", path.removeprefix("docs/"))
    if (root / path).is_dir():
        return f"repo/{path}/index.md"
    return f"repo/{path}" if Path(path).suffix in PICTURES | {".md"} else f"repo/{path}.md"


def _generated(config: Any, root: Path, path: str) -> File:
    source, uri = root / path, _uri(root, path)
    if source.suffix in PICTURES:
        return File.generated(config, uri, content=source.read_bytes())
    if source.is_dir():
        names = sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())
        listed = "\n".join(f"- `{name}`" for name in names if "__pycache__" not in name)
        return File.generated(config, uri, content=f"# {path}\n\n{listed}\n")
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".md":
        return File.generated(config, uri, content=WITH_ANCHOR.sub("#", text))
    language = LANGUAGES.get(source.suffix, "text")
    return File.generated(config, uri, content=f"# {path}\n\n````{language}\n{text}\n````\n")
