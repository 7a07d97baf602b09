"""The data of a trial: from a published dataset that was imported, or collected."""

from collections.abc import Iterable
from pathlib import Path

from pwmray.data.collect import MakeVector, Progress
from pwmray.data.collect import collect as collect_round
from pwmray.data.collected import Collect, collected_path, ensure_data
from pwmray.data.layouts import COLLECTED
from pwmray.data.manifest import imported_path
from pwmray.data.recipe import CollectionRecipe


def find_data(
    task: str,
    recipe: CollectionRecipe,
    data_dir: Path,
    make_vector: MakeVector,
    progress: Progress | None = None,
    collect: Collect = collect_round,
) -> Path:
    """Return the path of the task's data, collecting it first where that is its source.

    Raises ValueError with the command to run for a dataset that is not imported, and what
    ensure_data raises.
    """
    if recipe.source == COLLECTED:
        return ensure_data(task, recipe, data_dir, make_vector, progress, collect=collect)
    return imported_path(task, recipe.source, data_dir)


def describe_source(recipe: CollectionRecipe, data_dir: Path) -> str:
    """Return in one line where data comes from, for people."""
    if recipe.source == COLLECTED:
        rounds = f" in {recipe.num_rounds} rounds" if recipe.num_rounds else ""
        return f"{recipe.total_episodes} episodes a task collected{rounds} in {data_dir}"
    return f"{recipe.source}, imported in {data_dir / recipe.source}"


def missing_data(wanted: Iterable[tuple[str, CollectionRecipe]], data_dir: Path) -> list[str]:
    """Return a line for each dataset that tasks want and that nobody has imported or collected."""
    lines: dict[str, None] = {}
    to_collect = []
    for task, recipe in dict.fromkeys(wanted):
        if recipe.source == COLLECTED:
            if not collected_path(task, recipe, data_dir).exists():
                to_collect.append(task)
            continue
        try:
            imported_path(task, recipe.source, data_dir)
        except ValueError as error:
            lines[str(error)] = None
    if to_collect:
        tasks = ", ".join(dict.fromkeys(to_collect))
        lines[f"data of {tasks}, which the sweep collects first"] = None
    return list(lines)
