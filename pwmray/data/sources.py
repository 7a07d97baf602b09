"""The data of a trial: from a published dataset that was imported, or collected."""

from pathlib import Path

from pwmray.data.collect import MakeVector, Progress
from pwmray.data.collect import collect as collect_round
from pwmray.data.collected import Collect, ensure_data
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
