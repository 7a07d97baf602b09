"""The data of a trial: imported from a published dataset, or collected."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pwmray.commands import Progress
from pwmray.data.collect import MakeVector
from pwmray.data.collect import collect as collect_round
from pwmray.data.collected import Collect, collected_path, ensure_data
from pwmray.data.inventory import check_listed
from pwmray.data.layouts import COLLECTED
from pwmray.data.manifest import MANIFEST, import_command, imported_path, read_manifest
from pwmray.data.recipe import CollectionRecipe
from pwmray.data.store import open_store, read_fingerprint
from pwmray.wording import number_of


def find_data(
    task: str,
    recipe: CollectionRecipe,
    data_dir: Path,
    make_vector: MakeVector,
    progress: Progress | None = None,
    collect: Collect = collect_round,
) -> Path:
    """Return the path of the task's data, which is collected first if that is its source.

    Raises ValueError, with the command to run, for a dataset that was not imported; BrokenDataError
    for an imported file that is not the manifest's; and what `ensure_data` raises.
    """
    if recipe.source == COLLECTED:
        return ensure_data(task, recipe, data_dir, make_vector, progress, collect=collect)
    path = imported_path(task, recipe.source, data_dir)
    remake = import_command(path.parent, task, rebuild=True)
    check_listed(open_store(path, remake, task), read_manifest(path.parent).tasks[task])
    return path


def describe_source(recipe: CollectionRecipe, data_dir: Path) -> str:
    """Return a line for people that says where the data comes from."""
    if recipe.source == COLLECTED:
        rounds = f" in {recipe.num_rounds} rounds" if recipe.num_rounds else ""
        return f"{recipe.total_episodes} collected episodes a task{rounds}, in {data_dir}"
    folder = data_dir / recipe.source
    loss = read_manifest(folder).loss if (folder / MANIFEST).exists() else ""
    return f"{recipe.source}, imported in {folder}{f'; it lacks {loss}' if loss else ''}"


def current_fingerprint(task: str, recipe: CollectionRecipe, data_dir: Path) -> str | None:
    """Return the fingerprint of the task's data as it is now, None if it is missing or broken.

    This only reads what a file or a manifest says of itself.
    """
    try:
        if recipe.source == COLLECTED:
            return read_fingerprint(collected_path(task, recipe, data_dir))
        return read_manifest(data_dir / recipe.source).tasks[task].fingerprint
    except (ValueError, OSError, KeyError):
        return None


def join_fingerprints(fingerprints: Sequence[str]) -> str:
    """Return 16 hex digits that identify the data of several tasks, in order."""
    return hashlib.sha256("+".join(fingerprints).encode()).hexdigest()[:16]


def missing_data(wanted: Iterable[tuple[str, CollectionRecipe]], data_dir: Path) -> list[str]:
    """Return a line for each imported dataset that is missing, and one for all data to collect."""
    lines: dict[str, None] = {}
    to_collect = []
    for task, recipe in dict.fromkeys(wanted):
        if recipe.source == COLLECTED:
            if not collected_path(task, recipe, data_dir).exists():
                to_collect.append((task, recipe))
            continue
        try:
            imported_path(task, recipe.source, data_dir)
        except ValueError as error:
            lines[str(error)] = None
    if to_collect:
        tasks = ", ".join(dict.fromkeys(task for task, _ in to_collect))
        in_rounds = sum(recipe.num_rounds > 0 for _, recipe in to_collect)
        said = f"data of {tasks}, which the sweep collects first"
        if in_rounds:
            num = number_of(in_rounds, "collection")
            said += f"; {num} in rounds, whose minutes are not in those of the trials"
        lines[said] = None
    return list(lines)
