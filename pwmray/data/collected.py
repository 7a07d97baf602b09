"""The collected datasets of a folder; whichever process needs one first collects it, once."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path

from pwmray.commands import Progress
from pwmray.data.collect import Episodes, MakeVector, NoPolicyError
from pwmray.data.collect import collect as collect_round
from pwmray.data.layouts import COLLECTED
from pwmray.data.recipe import CollectionRecipe, collection_fingerprint
from pwmray.data.store import BrokenDataError, Store, open_store, write_store
from pwmray.files import remove_drafts
from pwmray.registry import claim
from pwmray.room import with_room
from pwmray.tasks import find_task
from pwmray.wording import as_typed, one_line

_POLL_SECONDS = 0.2
_DISK_WAIT_SECONDS = 1800.0  # as trials wait; what was collected in rounds took hours
Collect = Callable[[str, CollectionRecipe, MakeVector, Progress | None], Episodes]


def collected_path(task: str, recipe: CollectionRecipe, data_dir: Path) -> Path:
    """Return the path of the task's data of this recipe, whether or not it is there."""
    return Path(data_dir) / COLLECTED / f"{task}-{recipe.fingerprint(task)}.arrow"


def is_to_be_made(task: str, recipe: CollectionRecipe, data_dir: Path) -> bool:
    """Tell whether the task's data is missing and no process is collecting it."""
    path = collected_path(task, recipe, data_dir)
    return not path.exists() and claim.owner(_claim_path(path)) is None


def ensure_data(
    task: str,
    recipe: CollectionRecipe,
    data_dir: Path,
    make_vector: MakeVector,
    progress: Progress | None = None,
    rebuild: bool = False,
    collect: Collect = collect_round,
) -> Path:
    """Return the path of the task's data; collect it first if it is not there.

    A recipe with rounds needs pwmray.rounds.collect as `collect`. `rebuild` collects again and
    replaces a file that is there, broken or not.

    If several processes want the same data, one collects it. The others wait, and say so through
    `progress`; if the first one dies, another takes over.

    Raises ValueError for an unknown task, a broken file or a folder that cannot be written.
    """
    find_task(task)
    path = collected_path(task, recipe, data_dir)
    report = progress or (lambda *_: None)
    while rebuild or not path.exists():
        held = _claim(path)
        if held is None:
            _wait(path, report)
            time.sleep(_POLL_SECONDS)  # a stale claim is watched for a while before it is taken
            continue
        with held:
            if rebuild or not path.exists():
                remove_drafts(path)
                try:
                    _make(path, task, recipe, make_vector, report, collect)
                except NoPolicyError as error:
                    raise ValueError(f"{error}: {_command(task, recipe, data_dir)}") from error
        break
    check_name(open_store(path, f"{_command(task, recipe, data_dir)} --rebuild", task))
    return path


def check_name(store: Store) -> None:
    """Raise BrokenDataError unless a collected file has the task and recipe that its name says."""
    own = f"{store.task}-{collection_fingerprint(store.recipe, store.task)}"
    if store.path.stem != own:
        remedy = f"; make it again with: {store.remake}" if store.remake else ""
        raise BrokenDataError(f"the data file {store.path} holds the data that {own} names{remedy}")


def _command(task: str, recipe: CollectionRecipe, data_dir: Path) -> str:
    """Return the command that makes this data, to be shown to people."""
    folder = shlex.quote(str(data_dir))
    return as_typed(f"pwmray data collect {task} {recipe.command_options} --data {folder}")


def _make(
    path: Path,
    task: str,
    recipe: CollectionRecipe,
    make_vector: MakeVector,
    progress: Progress,
    collect: Collect,
) -> None:
    episodes = collect(task, recipe, make_vector, progress)

    def write() -> None:
        _write(path, task, recipe, episodes)

    def tell() -> None:
        progress("waiting for room", 0, 0)  # raises where it is asked to stop

    try:
        with_room(write, path.parent, _DISK_WAIT_SECONDS, tell)
    except OSError as error:  # Arrow's own do not name the file
        raise ValueError(f"cannot write data to {path.parent}: {one_line(error)}") from error


def _write(path: Path, task: str, recipe: CollectionRecipe, episodes: Episodes) -> None:
    assert len(episodes.reward) == recipe.total_episodes, "rounds need pwmray.rounds.collect"
    num_rows = episodes.reward.size
    write_store(
        path,
        task,
        obs=episodes.obs.reshape(num_rows, -1),
        action=episodes.action.reshape(num_rows, -1),
        reward=episodes.reward.reshape(num_rows),
        episode_lengths=[episodes.reward.shape[1]] * len(episodes.reward),
        behaviours=episodes.behaviours,
        recipe=recipe.collection,
    )


def _claim(path: Path) -> claim.Claim | None:
    try:
        return claim.acquire(_claim_path(path))
    except OSError as error:
        raise ValueError(f"cannot write data to {path.parent}: {one_line(error)}") from error


def _claim_path(path: Path) -> Path:
    return path.with_suffix(".claim")


def _wait(path: Path, progress: Progress) -> None:
    """Say which process collects the data, and return when it is done or dead."""
    while holder := claim.owner(_claim_path(path)):
        maker = claim.describe(holder)
        progress(f"waiting for process {maker}, which collects {path.name}", 0, 0)
        time.sleep(_POLL_SECONDS)
