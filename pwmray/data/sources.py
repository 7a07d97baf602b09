"""The data of a trial: from a published dataset that was imported, or collected."""

from pathlib import Path

from pwmray.data.collect import CollectionRecipe, MakeVector, Progress
from pwmray.data.collected import ensure_data
from pwmray.data.layouts import COLLECTED
from pwmray.data.manifest import imported_path


def find_data(
    task: str,
    recipe: CollectionRecipe,
    data_dir: Path,
    make_vector: MakeVector,
    progress: Progress | None = None,
) -> Path:
    """Return the path of the task's data, collecting it first where that is its source.

    Raises ValueError with the command to run for a dataset that is not imported, and what
    ensure_data raises.
    """
    if recipe.source == COLLECTED:
        return ensure_data(task, recipe, data_dir, make_vector, progress)
    return imported_path(task, recipe.source, data_dir)


def describe_source(recipe: CollectionRecipe, data_dir: Path) -> str:
    """Return in one line where data comes from, for people."""
    if recipe.source == COLLECTED:
        return f"{recipe.num_episodes} episodes a task collected in {data_dir}"
    return f"{recipe.source}, imported in {data_dir / recipe.source}"
