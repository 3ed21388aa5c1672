"""Tickets on the Hugging Face Hub: one safetensors file and a model card made from what the ticket records.

Nothing here runs unless it is asked for by name: `push_to_hub`, or a path that starts with `hf://`. The
server is the one that the environment variable HF_ENDPOINT names, and by default huggingface_hub's own.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supermask import extras, zoo

PREFIX = "hf://"
FILE = "ticket.safetensors"
"""What a ticket is called in a repository."""
_REPOSITORY = r"\w[\w.-]*/\w[\w.-]*"
_ADDRESS = re.compile(rf"hf://({_REPOSITORY}?)(?:@([\w./-]+))?", re.ASCII)


class HubError(OSError):
    """The Hub refused, or could not be reached; the message says what was asked of it."""


class AddressError(ValueError):
    """What starts with `hf://` is no address of a ticket; nothing was asked for anywhere."""


def local_file(path: str | os.PathLike[str]) -> Path:
    """The file behind a path: itself, for `hf://user/name[@revision]` a copy in huggingface_hub's cache, and
    for `zoo:name` the one that ships with the library.

    Raises:
        FileNotFoundError: The zoo has no ticket of that name.
        AddressError: What starts with `hf://` is no such address.
        MissingExtraError: huggingface_hub is not installed.
        HubError: The repository, the revision or the ticket is not there, or the Hub is not reached.
    """
    if str(path).startswith(zoo.PREFIX):
        return zoo.ticket_file(str(path))
    if not str(path).startswith(PREFIX):
        return Path(path)
    match = _ADDRESS.fullmatch(str(path))
    if match is None:
        raise AddressError(
            f"{path} is no address of a ticket; give hf://user/name or hf://user/name@revision"
        )
    hub: Any = extras.load("huggingface_hub", "hub")
    errors: Any = extras.load("huggingface_hub.errors", "hub")
    repository, revision = match.groups()
    try:
        return Path(hub.hf_hub_download(repository, FILE, revision=revision, endpoint=_endpoint()))
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{path} cannot be fetched: {repository} has no revision {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{path} cannot be fetched: there is no repository {repository}, or it is private; log in with "
            "`hf auth login`"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise HubError(f"{path} cannot be fetched: {repository} holds no {FILE}") from error
    except Exception as error:  # the transport has errors of its own, which change with its version
        raise HubError(f"{path} cannot be fetched: {_reason(error)}") from error


def upload(
    file: Path,
    card: str,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload a supermask ticket",
    token: str | None = None,
) -> str:
    """Put a ticket file and its card into a repository, which is made if there is none, in one commit.

    Args:
        file: The ticket.
        card: The model card, Markdown.
        repository: `user/name`.
        private: Whether a repository that is made is seen by its owner alone.
        revision: Branch to commit to; by default the main one.
        message: Of the commit.
        token: By default the one that `hf auth login` stored.

    Returns:
        The address of the commit.

    Raises:
        ValueError: `repository` is no such name.
        MissingExtraError: huggingface_hub is not installed.
        HubError: The Hub refuses, or is not reached.
    """
    if re.fullmatch(_REPOSITORY, repository, re.ASCII) is None:
        raise ValueError(f"a repository is user/name, not {repository!r}")
    hub: Any = extras.load("huggingface_hub", "hub")
    api = hub.HfApi(endpoint=_endpoint(), token=token)
    contents = {FILE: str(file), "README.md": card.encode()}
    operations = [hub.CommitOperationAdd(name, content) for name, content in contents.items()]
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.create_commit(repository, operations, commit_message=message, revision=revision)
    except Exception as error:  # the transport has errors of its own, which change with its version
        raise HubError(f"{repository} was not written: {_reason(error)}") from error
    return str(done.commit_url)


def card(info: Mapping[str, Any], nbytes: int, repository: str, accuracy: float | None = None) -> str:
    """The model card of a ticket.

    Args:
        info: `Ticket.info()`.
        nbytes: Size of the file.
        repository: `user/name`.
        accuracy: On the test split, as a fraction; None where it is not known.
    """
    hub: Any = extras.load("huggingface_hub", "hub")
    provenance = info["provenance"]
    data, network = provenance.get("data"), (info["factory"] or {}).get("name")
    results = None
    if accuracy is not None:
        results = [
            hub.EvalResult(
                task_type="image-classification",
                dataset_type=str(data or "unknown"),
                dataset_name=str(data or "unknown"),
                metric_type="accuracy",
                metric_value=round(accuracy, 4),
                dataset_split="test",
            )
        ]
    name = repository.rpartition("/")[2]
    tags = ["lottery-ticket-hypothesis", "supermask", "pruning"]
    facts = hub.ModelCardData(library_name="supermask", tags=tags, eval_results=results, model_name=name)
    return f"---\n{facts.to_yaml()}\n---\n\n{_text(info, nbytes, repository, name, network, accuracy)}"


def _text(
    info: Mapping[str, Any],
    nbytes: int,
    repository: str,
    name: str,
    network: str | None,
    accuracy: float | None,
) -> str:
    kinds = {
        "strong": "A strong lottery ticket: the weights are drawn from a seed and were never trained. "
        "The file holds the seed and which weights to keep.",
        "trained": "A lottery ticket with trained weights: the file holds which are kept, and their values.",
        "dense": "A dense network.",
    }
    dense = 4 * info["parameters"]
    rows = {
        "network": f"`{network}`" if network else "built outside the library",
        "density": f"{info['density']:.4g} ({info['kept_weights']:,} of {info['masked_weights']:,} weights)",
        "test accuracy": None if accuracy is None else f"{100 * accuracy:.2f} %",
        "file": f"{nbytes:,} bytes; {dense:,} as dense float32 ({dense / nbytes:.1f}×)",
        "initialization": f"{info['init']}, seed {info['seed']}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value is not None)
    if network:
        load = f'network = sm.load("hf://{repository}")'
    else:
        load = f'network = sm.Ticket.load("hf://{repository}").apply(model)  # the model it was searched in'
    recipe = json.dumps(info["provenance"], indent=2, ensure_ascii=False)
    return f"""# {name}

{kinds[info["kind"]]}

| | |
| --- | --- |
{table}

```sh
pip install 'supermask[hub]'
```

```python
import supermask as sm

{load}
```

Nothing in the file is executed. A checksum of the weights is verified when it is loaded.

## How it was made

```json
{recipe}
```
"""


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
