"""One process at a time makes a dataset or an export; any other is told which one does."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pwmray.commands import say
from pwmray.registry import claim
from pwmray.wording import one_line


@contextlib.contextmanager
def claimed(path: Path, work: str) -> Iterator[None]:
    """Hold the claim at `path` for some `work`, such as "imports into DIR".

    Raises ValueError naming the process that has the claim, or a folder that cannot be written.
    """
    try:
        claim.watch_dead([path], say)
        held = claim.acquire(path)
    except OSError as error:
        raise ValueError(f"cannot write data to {path.parent}: {one_line(error)}") from error
    if held is None:
        raise ValueError(f"process {claim.describe(claim.holder(path))} {work}")
    with held:
        yield
