"""A whole training step as one CUDA graph: forward, backward, clipping and the optimizer's or search's step.

A graph repeats kernels with the arguments of its capture. So inputs are copied into fixed tensors, learning
rates live on the device, and a step that decides anything on the host cannot be captured: `obstacle` says
whether that is so, and why. The first steps run eagerly, on the stream of the capture: they make the
optimizer's state, and let cuDNN, cuBLAS and the compiler choose their kernels.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from supermask.search import Search
from supermask.search.graph_eligibility import graph_obstacle
from supermask.weights.names import data_parallel

WARM_UP = 3
"""Steps before the capture."""
RULES = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Rules whose fused step reads its learning rate from the device."""

Step = Callable[[Tensor, Tensor], Tensor]
"""Inputs and labels → the loss, detached."""


class Recorder(Protocol):
    """What captures and replays work."""

    def aside(self, call: Callable[[], Tensor]) -> Tensor:
        """Make a call as the capture will, but for the recording."""

    def capture(self, call: Callable[[], Tensor]) -> Tensor:
        """Record what a call does, without doing it; the result is where every replay leaves its own."""

    def replay(self) -> None:
        """Do what was recorded."""


@contextmanager
def generator_put_back(device: int) -> Iterator[None]:
    """Put the generator of a GPU back if a capture inside this context fails.

    torch leaves it in the capture that failed, and nothing could be drawn any more.
    """
    generator = torch.cuda.default_generators[device]
    before = generator.clone_state()
    try:
        yield
    except RuntimeError:
        generator.graphsafe_set_state(before)
        raise


class CudaRecorder:
    """One CUDA graph, recorded on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._index = torch.cuda.current_device() if device.index is None else device.index
        self._graph = torch.cuda.CUDAGraph()

    def aside(self, call: Callable[[], Tensor]) -> Tensor:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            result = call()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return result

    def capture(self, call: Callable[[], Tensor]) -> Tensor:
        # Of this thread alone: another one may be reading images ahead.
        with (
            generator_put_back(self._index),
            torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"),
        ):
            return call()

    def replay(self) -> None:
        self._graph.replay()


def recorder_for(device: torch.device) -> Recorder | None:
    """What can record on `device`, or None."""
    return CudaRecorder(device) if device.type == "cuda" else None


class GraphedStep:
    """A training step that is captured after its warm-up and replayed from then on; `graphed` makes it.

    A batch of another shape or type than the captured one takes an ordinary step.

    Args:
        step: Does everything that a step does; called with inputs and labels, it returns the detached loss.
        optimizer: Whose state the step changes; its learning rates must lie on the device.
        recorder: What records.
        required: Whether a step that cannot be captured is an error, and not a warning.
    """

    def __init__(self, step: Step, optimizer: Optimizer, recorder: Recorder, *, required: bool) -> None:
        self._step, self._optimizer, self._recorder, self._required = step, optimizer, recorder, required
        self._warm = 0
        self._static: tuple[Tensor, Tensor] | None = None
        self._loss = torch.empty(0)
        self._state: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._strayed = self._failed = False

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Train on a batch; the loss stays valid until the next call."""
        if self._static is None and self._warm == WARM_UP and not self._failed:
            self._capture(inputs, labels)
        if self._static is None or not all(map(_alike, self._static, (inputs, labels))):
            self._warm, self._strayed = min(self._warm + 1, WARM_UP), True
            return self._recorder.aside(lambda: self._step(inputs, labels))
        if self._strayed:
            _put_back(self._state)
            self._strayed = False
        for static, given in zip(self._static, (inputs, labels), strict=True):
            static.copy_(given)
        self._recorder.replay()
        if isinstance(self._optimizer, Search):
            self._optimizer.steps += 1
        return self._loss

    def _capture(self, inputs: Tensor, labels: Tensor) -> None:
        """Record a step. It is not made, so what Python counted or pointed elsewhere meanwhile is undone."""
        static = inputs.clone(), labels.clone()
        before, steps = _references(self._optimizer), getattr(self._optimizer, "steps", 0)
        try:
            self._loss = self._recorder.capture(lambda: self._step(*static))
            self._static, self._state = static, _references(self._optimizer)
        except RuntimeError as error:
            _put_back(before)
            self._optimizer.zero_grad()
            message = f"the training step cannot be captured as a CUDA graph ({_first_line(error)})"
            if self._required:
                raise RuntimeError(f"{message}; leave out cuda_graphs") from error
            warnings.warn(f"{message}, and runs without one", stacklevel=2)
            self._failed = True
        if isinstance(self._optimizer, Search):
            self._optimizer.steps = steps


def obstacle(model: nn.Module, optimizer: Optimizer, amp: str) -> str | None:
    """Why the steps of a training cannot be captured; None if they can."""
    device = next(model.parameters()).device
    if recorder_for(device) is None:
        return f"the model is on {device.type}, and graphs are of CUDA"
    if amp == "fp16":
        return "amp fp16 scales the loss by a GradScaler, which waits for the device in every step; take bf16"
    if data_parallel(model):
        return "DDP waits for other processes on the host"
    if isinstance(optimizer, Search):
        if (reason := graph_obstacle(optimizer)) is not None:
            return reason
    rule = optimizer.base if isinstance(optimizer, Search) else optimizer
    if type(rule) not in RULES:
        known = ", ".join(known.__name__ for known in RULES)
        return f"{type(rule).__name__} does not read its learning rate from the device, as {known} can"
    for hooked in {id(hooked): hooked for hooked in (optimizer, rule)}.values():
        hooks = (*hooked._optimizer_step_pre_hooks.values(), *hooked._optimizer_step_post_hooks.values())
        for owner in (getattr(hook, "__self__", hook) for hook in hooks):
            if not getattr(owner, "graphable", False):
                return f"{_name(owner)} decides on the host after a step"
    return None


@contextmanager
def graphed(
    step: Step, model: nn.Module, optimizer: Optimizer, amp: str, wanted: bool | None
) -> Iterator[tuple[Step, Callable[[dict[str, Any]], dict[str, Any]]]]:
    """Inside this context, what to call for a step: `step` itself, or a graph of it.

    With it comes a function that gives a `state_dict` of the optimizer the options it had before, so that a
    training can go on from it with or without a graph.

    Args:
        step: Does everything that a step does.
        model: What it trains.
        optimizer: By what.
        amp: In which precision.
        wanted: False for no graph, True for a graph, None for one where that is possible.

    Raises:
        ValueError: A graph is wanted, and cannot hold the step.
    """
    reason = obstacle(model, optimizer, amp) if wanted is not False else "not wanted"
    if wanted and reason:
        raise ValueError(f"cuda_graphs: {reason}; leave them out, or to None for where they are possible")
    if reason:
        yield step, lambda state: state
        return
    recorder = recorder_for(next(model.parameters()).device)
    assert recorder is not None
    with _device_options(optimizer) as restored:
        yield GraphedStep(step, optimizer, recorder, required=bool(wanted)), restored


def set_rates(optimizer: Optimizer, rates: list[float]) -> None:
    """Give each group its learning rate, without waiting for the device that may hold it."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


_OPTIONS = ("lr", "fused", "capturable", "foreach")


@contextmanager
def _device_options(optimizer: Optimizer) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """Inside this context learning rates are tensors on the device, read by the fused step of the rule."""
    rules = [optimizer, optimizer.base] if isinstance(optimizer, Search) else [optimizer]
    groups = [group for rule in rules for group in rule.param_groups]
    device = optimizer.param_groups[0]["params"][0].device
    before = [{key: group[key] for key in _OPTIONS if key in group} for group in groups]
    for group in groups:
        rate = torch.tensor(float(group["lr"]), dtype=torch.float32, device=device)
        group.update({"lr": rate, "fused": True, "foreach": None})
        if "capturable" in group:
            group["capturable"] = True
    _place_counters(rules, device)

    def restored(state: dict[str, Any]) -> dict[str, Any]:
        saved = [*state["param_groups"], *state.get("base", {}).get("param_groups", ())]
        for group, options in zip(saved, before, strict=True):
            group.update(options)
        return state

    try:
        yield restored
    finally:
        for group, options in zip(groups, before, strict=True):
            group.update(options)
        _place_counters(rules, device)


def _place_counters(rules: list[Optimizer], device: torch.device) -> None:
    """Put Adam's step counters where its options want them."""
    for rule in rules:
        on_device = any(group.get("fused") or group.get("capturable") for group in rule.param_groups)
        for state in rule.state.values():
            if isinstance(count := state.get("step"), Tensor):
                state["step"] = count.to(device if on_device else "cpu")


def _references(optimizer: Optimizer) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The state of each parameter, and what it holds now: a search replaces its masks, for one."""
    return [(state, dict(state)) for state in optimizer.state.values()]


def _put_back(references: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for state, held in references:
        state.update(held)


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.stride() == other.stride()


def _name(owner: object) -> str:
    return getattr(owner, "__name__", type(owner).__name__)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
