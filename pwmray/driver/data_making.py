"""All the data that a sweep needs; what takes a minute a task is made side by side."""

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from pwmray import rounds, system
from pwmray.commands import Progress
from pwmray.data.collected import is_to_be_made
from pwmray.data.layouts import COLLECTED
from pwmray.data.recipe import CollectionRecipe
from pwmray.data.sources import find_data
from pwmray.envs.vector import failures_in_one_line, make_vector
from pwmray.tasks import SIMULATIONS, find_task

Wanted = tuple[str, CollectionRecipe]  # a task and where its data comes from

# Which come to all processes of a terminal, or of a job.
_KEPT = (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
_POLL_SECONDS = 0.2
_PERCENT = 100


class _Shared(NamedTuple):
    """What a worker shares with the process that asked."""

    percents: Any  # how far each task has come
    stop: Any  # an event: the work is not wanted any more


_shared: _Shared | None = None  # of a worker


def make_data(wanted: Iterable[Wanted], data_dir: Path, progress: Progress) -> dict[Wanted, Path]:
    """Return the path of each task's data, collecting what is missing.

    Raises ValueError as pwmray.data.sources.find_data does.
    """
    wanted = list(dict.fromkeys(wanted))
    slow = [(task, r) for task, r in wanted if r.num_rounds and is_to_be_made(task, r, data_dir)]
    if len(slow) > 1:
        _make_side_by_side(slow, data_dir, progress)
    made = [(task, recipe) for task, recipe in wanted if recipe.source == COLLECTED]
    missing = [w for w in made if is_to_be_made(*w, data_dir)]
    parts = {w: _Part(progress, number, missing) for number, w in enumerate(missing)}
    cores = system.num_cores()
    return {w: _make(*w, data_dir, parts.get(w, progress), cores) for w in wanted}


class _Part:
    """Progress of one collection as a part of all: one activity, so that the time left is of all.

    Those that come one after another are of one size, as far as a sweep does not vary it, but a
    step of one with more of MuJoCo's substeps takes longer.
    """

    def __init__(self, progress: Progress, number: int, wanted: list[Wanted]):
        self._progress, self._num_all = progress, len(wanted)
        weights = [SIMULATIONS[find_task(task).domain].num_substeps for task, _ in wanted]
        self._before, self._own, self._sum = sum(weights[:number]), weights[number], sum(weights)
        self._counted = f", {_count(wanted)}" if len(wanted) > 1 else ""

    def __call__(self, what: str, done: int, total: int) -> None:
        counted = self._counted if total else ""
        weighted = self._before * total + self._own * done
        done_of_all = self._num_all * weighted // self._sum
        self._progress(f"{what}{counted}", done_of_all, self._num_all * total)


def _make(
    task: str, recipe: CollectionRecipe, data_dir: Path, progress: Progress, num_threads: int
) -> Path:
    make = functools.partial(make_vector, num_threads=num_threads)
    with failures_in_one_line("the collected actions"):
        return find_data(task, recipe, data_dir, make, progress, rounds.collect)


def _make_side_by_side(wanted: list[Wanted], data_dir: Path, progress: Progress) -> None:
    """Make the data in processes of their own, one a core; leave none of them running."""
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads
    num_workers = min(len(wanted), system.num_cores())
    with _signals_kept_here():  # from Python's keeper of shared memory too, a process of its own
        shared = _Shared(context.Array("i", len(wanted), lock=False), context.Event())
    with ProcessPoolExecutor(num_workers, context, _start_worker, (shared,)) as executor:
        try:
            with _signals_kept_here():
                tasks = enumerate(wanted)
                futures = [executor.submit(_make_here, i, *w, data_dir) for i, w in tasks]
            _follow(futures, _count(wanted), shared.percents, progress)
        except BrokenProcessPool as error:
            raise ValueError("a process collecting data died; out of memory?") from error
        except BaseException:  # asked to stop, or one that failed: the others need not go on
            shared.stop.set()
            executor.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _signals_kept_here() -> Iterator[None]:
    """Keep Ctrl-C, SIGUSR1 and SIGHUP from the processes that are started in this context.

    The signals are blocked, which child processes inherit. Those that come meanwhile are heeded
    afterwards, as is SIGTERM, which would leave a process half started.
    """
    numbers = (signal.SIGTERM, *_KEPT)
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    came: set[int] = set()
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        for number in before:  # what this thread blocks another one takes
            signal.signal(number, lambda number, _: came.add(number))
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in sorted(came, reverse=True):  # SIGTERM before Ctrl-C: the first may raise
            signal.raise_signal(number)


def _count(wanted: list[Wanted]) -> str:
    num_tasks = len({task for task, _ in wanted})
    return f"{len(wanted)} {'tasks' if num_tasks == len(wanted) else 'collections'}"


def _follow(
    futures: list[Future], counted: str, percents: Sequence[int], progress: Progress
) -> None:
    """Show how far all have come until the last is done; raise what one of them raised."""
    running = set(futures)
    while running:
        done, running = wait(running, _POLL_SECONDS, FIRST_EXCEPTION)
        what = f"training and collecting in rounds, {counted}"
        progress(what, sum(percents), _PERCENT * len(futures))
        for future in done:
            future.result()


def _start_worker(shared: _Shared) -> None:
    """Take what is shared, and end with the process that asked, whatever ends that."""
    global _shared
    _shared = shared
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    system.quieten_dm_control()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make_here(number: int, task: str, recipe: CollectionRecipe, data_dir: Path) -> None:
    def progress(_: str, done: int, total: int) -> None:
        assert _shared is not None
        if _shared.stop.is_set():
            raise InterruptedError(f"the collection of {task} is no longer wanted")
        if total:
            _shared.percents[number] = _PERCENT * done // total

    _make(task, recipe, data_dir, progress, num_threads=1)
