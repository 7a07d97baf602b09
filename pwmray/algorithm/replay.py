"""An epoch as one CUDA graph: recorded once, then replayed without Python and its launches.

Between replays nothing may change but the contents of tensors: so learning rates become tensors,
and random generators are registered with the graph. A recorded epoch is trusted only after it was
compared with an ordinary one from the same state.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pwmray.algorithm.compiling import shorten
from pwmray.kernels import branches

Metrics = dict[str, Tensor]
Work = Callable[[], Metrics]
Record = Callable[[Work, Sequence[torch.Generator]], Work]
Schedule = Callable[[float], None]  # sets what changes over the epochs, by the share of them done

_WARM_UPS = 3  # optimizers make their state in the first, libraries their workspaces
_TOLERANCE = 1e-3  # of the largest entry of each tensor; some sums are in no fixed order

log = logging.getLogger(__name__)


class Replay(NamedTuple):
    """What runs an epoch, and whether from a recording: on, off, or `off: ` and why.

    `partly off: ` where branches of work beside each other could not be recorded.
    """

    run: Work
    cuda_graph: str


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, in place where it is a tensor."""
    group = optimizer.param_groups[0]
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def prepare_rates(optimizers: Iterable[torch.optim.Optimizer], device: torch.device) -> None:
    """Make the learning rates tensors on the device, as a recorded step needs them."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = torch.as_tensor(float(group["lr"]), device=device)
            group["capturable"] = True


def release_rates(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Make the learning rates plain numbers again, as a file or another device needs them."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = float(group["lr"])
            group["capturable"] = False


def portable_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's state for a file, without what a recording changed in it."""
    state = optimizer.state_dict()
    groups = [{**g, "lr": float(g["lr"]), "capturable": False} for g in state["param_groups"]]
    return {**state, "param_groups": groups}


def optimizer_tensors(optimizers: Iterable[torch.optim.Optimizer]) -> list[Tensor]:
    """Return moments and step counts, in a fixed order; none before the first step."""
    return [
        value
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        for value in optimizer.state[parameter].values()
    ]


def replayed_on_gpu(
    work: Work,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    generators: Sequence[torch.Generator],
    is_mapped: bool,
    schedule: Schedule = lambda _: None,
) -> Replay:
    """Return `work`, which changes `module`, as a recording where that is possible, else itself.

    It is not possible on a CPU, nor, as the log then says, where rows are mapped from files.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if tensors[0].device.type != "cuda":
        return Replay(work, "off")
    if is_mapped:
        return _off(work, "the rows are read from files")
    # Without branches the epoch is still many times as fast as `work`.
    records = (record_graph, record_in_turn)
    return replayed(work, optimizers, tensors, generators, records, schedule)


def replayed(
    work: Work,
    optimizers: Sequence[torch.optim.Optimizer],
    tensors: Sequence[Tensor],
    generators: Sequence[torch.Generator],
    records: Iterable[Record],
    schedule: Schedule = lambda _: None,
) -> Replay:
    """Return `work` as a recording, or, with the reason in the log, itself where that fails.

    `work` may change only `tensors` (parameters and buffers), the optimizers and the generators,
    all on the device; they are left as they were, except for what `schedule` sets. The first of
    the `records` that can makes the recording, at the start of the schedule. It is compared in the
    schedule's middle, where a number that is not a tensor would still be that of the start.
    """
    start, reasons = _Start(optimizers, tensors, generators), []
    prepare_rates(optimizers, tensors[0].device)
    for record in records:
        try:
            recorded = _record(record, work, generators, schedule, start)
        except RuntimeError as error:
            reasons.append(shorten(error))
            _leave_recording(generators)
        else:
            made = Replay(recorded, f"partly off: {reasons[0]}" if reasons else "on")
            if reasons:
                log.warning("cuda_graph=%s", made.cuda_graph)
            break
    else:
        made = _off(work, reasons[0])
        release_rates(optimizers)
    start.again()
    return made


def _record(
    record: Record,
    work: Work,
    generators: Sequence[torch.Generator],
    schedule: Schedule,
    start: "_Start",
) -> Work:
    """Return the recording of `work`; raise RuntimeError if it is no faithful one."""

    def outcome(run: Work) -> list[Tensor]:
        start.again()
        schedule(0.5)
        metrics = run()
        return [t.detach().clone() for t in (*metrics.values(), *start.tensors)]

    for _ in range(_WARM_UPS):
        ordinary = outcome(work)
    start.again()
    schedule(0.0)
    recorded = record(work, generators)
    difference = _largest_difference(outcome(recorded), ordinary)
    if not difference <= _TOLERANCE:  # nor is NaN
        raise RuntimeError(f"a replay differs from an ordinary epoch by {difference:.1e}")
    log.info("cuda_graph=on difference=%.1e", difference)
    return recorded


class _Start:
    """Where training stands before an epoch is recorded, for which it is run several times."""

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        tensors: Sequence[Tensor],
        generators: Sequence[torch.Generator],
    ):
        self.tensors = tensors
        self._optimizers, self._generators = optimizers, generators
        # Detached: a clone with a history would keep autograd's nodes alive, and their stream.
        self._values = [tensor.detach().clone() for tensor in tensors]
        self._states = [generator.get_state() for generator in generators]
        self._moments = [tensor.clone() for tensor in optimizer_tensors(optimizers)]

    def again(self) -> None:
        """Go back to it."""
        for tensor, value in zip(self.tensors, self._values, strict=True):
            tensor.detach().copy_(value)
        for generator, state in zip(self._generators, self._states, strict=True):
            generator.set_state(state)
        found = optimizer_tensors(self._optimizers)
        # Before the first step there were none: zeros are what the first step starts from.
        for tensor, value in zip(found, self._moments or [None] * len(found), strict=True):
            tensor.zero_() if value is None else tensor.copy_(value)


def _off(work: Work, reason: str) -> Replay:
    log.warning("cuda_graph=off: %s", reason)
    return Replay(work, f"off: {reason}")


def record_graph(work: Work, generators: Sequence[torch.Generator]) -> Work:
    """Record `work` on the current device as a CUDA graph; raise RuntimeError where it cannot."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()  # what libraries set up for a stream is not to be recorded
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    # A recording that fails would leave its own stream the current one.
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, stream=stream):
        metrics = work()

    return _Recording(graph, metrics, work, generators)


def record_in_turn(work: Work, generators: Sequence[torch.Generator]) -> Work:
    """Record as `record_graph` does, but what would run beside other work in turn with it."""
    with branches.left_out():
        return record_graph(work, generators)


class _Recording(NamedTuple):
    """A graph with what it reads, which must live as long and may be known to `work` alone."""

    graph: torch.cuda.CUDAGraph
    metrics: Metrics
    work: Work
    generators: Sequence[torch.Generator]

    def __call__(self) -> Metrics:
        self.graph.replay()
        # The next replay writes to the same place.
        return {name: value.clone() for name, value in self.metrics.items()}


def _leave_recording(generators: Iterable[torch.Generator]) -> None:
    """Free generators from a recording that failed: they refuse to draw outside of it."""
    for generator in generators:
        if generator.device.type == "cuda":
            generator.graphsafe_set_state(generator.clone_state())


def _largest_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference of two tensors, relative to the largest entry."""
    differences = [
        (a - b).abs().max() / b.abs().max().clamp(min=1e-12)
        for a, b in zip(found, expected, strict=True)
        if a.numel() and a.is_floating_point()
    ]
    return float(torch.stack(differences).max())
