"""Time one case: ours and the plain update in turns, or ours in several processes at once."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import machine
import torch
import workload

from pwmray.devices import set_up_torch
from pwmray.files import replacing

_PROFILED_ROWS = 40


class Setup(NamedTuple):
    """How cases are timed."""

    device: torch.device
    num_threads: int  # of a copy
    compiled: bool
    repeat: int
    num_copies: int
    has_reference: bool

    @property
    def num_calls(self) -> int:
        """How many updates a copy makes of a case."""
        return (1 + self.repeat) * (2 if self.has_reference else 1)


class Times(NamedTuple):
    """What a case took; without the plain update there is nothing of it."""

    ms: float  # of one update of ours: the best of the repeats; with several copies the mean
    updates_per_second: float  # of all copies together
    first_ms: float  # until the first update was done: building, compiling, recording it
    peak_mib: float  # of all copies together
    kernels: str  # as epoch.Epoch has them
    cuda_graph: str
    reference_ms: float | None = None
    agreement: float | None = None  # of the weights after the first update: workload.difference


def time_in_turns(
    case: workload.Case, setup: Setup, called: Callable[[], None], profile: Path | None
) -> Times:
    """Time ours and the plain update, which is computed as torch does by itself.

    `called` is told of each update done; ours is profiled into the folder `profile`, if any.
    """

    def timed(side: workload.Side) -> float:
        seconds = machine.time_call(side.update, setup.device)
        called()
        return seconds

    def timed_plain(side: workload.Side) -> float:
        with machine.precision_of_torch():
            return timed(side)

    started = time.perf_counter()
    machine.start_peak_memory(setup.device)
    ours = workload.ours(case, setup.device, setup.compiled)
    timed(ours)
    first_seconds = time.perf_counter() - started
    peak_mib = machine.peak_memory(setup.device)
    plain = workload.plain(case, setup.device) if setup.has_reference else None
    reference_seconds, agreement = [], None
    if plain:
        agreement = _compare_an_update(ours, plain, timed_plain)
    our_seconds = []
    for _ in range(setup.repeat):
        if plain:
            reference_seconds.append(timed_plain(plain))
        our_seconds.append(timed(ours))
    if profile:
        _profile(ours.update, setup.device, profile / case.name)
    best = min(our_seconds)
    reference_ms = 1e3 * min(reference_seconds) if reference_seconds else None
    return Times(
        1e3 * best, 1 / best, 1e3 * first_seconds, peak_mib, ours.kernels, ours.cuda_graph,
        reference_ms, agreement,
    )  # fmt: skip


def _compare_an_update(
    ours: workload.Side, plain: workload.Side, timed_plain: Callable[[workload.Side], float]
) -> float:
    """Make one plain update, as ours has made one; return how far the weights are apart."""
    before = [parameter.detach().clone() for parameter in plain.module.parameters()]
    timed_plain(plain)
    return workload.difference(ours.module, plain.module, before)


class _Copy(NamedTuple):
    """One process: when its updates began and ended, on the clock of all."""

    started: float
    ended: float
    first_seconds: float
    peak_mib: float
    kernels: str
    cuda_graph: str


def time_copies(case: workload.Case, setup: Setup) -> Times:
    """Time ours in several processes, after one update each, all begun together.

    Raises ValueError for more copies than the memory holds.
    """
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(setup.num_copies, context) as pool:
        together = manager.Barrier(setup.num_copies)
        futures = [pool.submit(_run_copy, case, setup, together) for _ in range(setup.num_copies)]
        wait(futures)
        _check_copies(futures)
        copies = [future.result() for future in futures]
    seconds = max(copy.ended for copy in copies) - min(copy.started for copy in copies)
    total = sum(copy.ended - copy.started for copy in copies)
    num_updates = setup.num_copies * setup.repeat
    return Times(
        ms=1e3 * total / num_updates,
        updates_per_second=num_updates / seconds,
        first_ms=1e3 * max(copy.first_seconds for copy in copies),
        peak_mib=sum(copy.peak_mib for copy in copies),
        # Of copies that differ the one that says why.
        kernels=max((copy.kernels for copy in copies), key=_says_why),
        cuda_graph=max((copy.cuda_graph for copy in copies), key=_says_why),
    )


def _says_why(how: str) -> bool:
    return "off: " in how


def _run_copy(case: workload.Case, setup: Setup, together: Any) -> _Copy:
    try:
        set_up_torch(setup.device, setup.num_threads, case.matmul)
        begun = time.perf_counter()
        machine.start_peak_memory(setup.device)
        side = workload.ours(case, setup.device, setup.compiled)
        machine.time_call(side.update, setup.device)
        first_seconds = time.perf_counter() - begun
        together.wait()
        started = time.monotonic()
        for _ in range(setup.repeat):
            side.update()
        machine.synchronise(setup.device)
        ended, peak_mib = time.monotonic(), machine.peak_memory(setup.device)
        return _Copy(started, ended, first_seconds, peak_mib, side.kernels, side.cuda_graph)
    except BaseException:
        together.abort()  # else the others wait for it
        raise


def _check_copies(futures: list[Future]) -> None:
    """Raise what ended a copy, not what became of those that waited for it."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    errors.sort(key=lambda error: isinstance(error, threading.BrokenBarrierError))
    if errors and isinstance(errors[0], torch.OutOfMemoryError | BrokenProcessPool):
        raise ValueError(
            f"--copies is {len(futures)}, and one was ended, as happens where memory is short: "
            f"{errors[0]}"
        ) from errors[0]
    if errors:
        raise errors[0]


def _profile(call: Callable[[], object], device: torch.device, path: Path) -> None:
    """Write the operations of one call by their own time as text, and when each ran."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it says on stderr that it begins
    kinds = torch.profiler.ProfilerActivity
    activities = [kinds.CPU, *([kinds.CUDA] if device.type == "cuda" else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        machine.time_call(call, device)
    order = f"self_{device.type}_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=_PROFILED_ROWS)
    with replacing(path.with_name(f"{path.name}.txt")) as draft:
        draft.write_text(table)
    with replacing(path.with_name(f"{path.name}.json")) as draft:
        profiler.export_chrome_trace(str(draft))
