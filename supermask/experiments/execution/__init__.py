"""One run from its specification to its result, and the store that keeps what is finished."""

from supermask.experiments.execution.context import Environment as Environment
from supermask.experiments.execution.context import RunContext as RunContext
from supermask.experiments.execution.run import execute as execute
from supermask.experiments.execution.store import Run as Run
from supermask.experiments.execution.store import Store as Store
