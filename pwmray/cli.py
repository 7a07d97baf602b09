"""The `pwmray` command: data, checkpoints, the tasks, and what the models cost."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pwmray.checkpoint_cli import add_checkpoint_commands
from pwmray.commands import CommandParser, run_command, show_progress
from pwmray.data.collect import CollectionRecipe
from pwmray.tasks import TASKS, find_task

DEFAULT_DATA_DIR = Path("data")
_DEFAULTS = CollectionRecipe()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; 2 with one line for bad input."""
    return run_command(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int | None:
    chosen = _build_parser().parse_args(arguments)
    return chosen.run(chosen)


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="pwmray", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    tasks = commands.add_parser("tasks", help="list the 30 tasks, their floors, published returns")
    tasks.set_defaults(run=_list_tasks)
    models = commands.add_parser("models", help="parameters, network calls and FLOPs of models")
    models.add_argument("--size", metavar="S", help="1, 5, 19, 48, 317 or laptop; default: all")
    models.add_argument("--variant", metavar="V", help="baseline, ..., fullflow; default: all")
    models.set_defaults(run=_show_models)
    data = commands.add_parser("data", help="make and look at data")
    data_commands = data.add_subparsers(required=True, metavar="COMMAND")
    _add_collect(data_commands)
    _add_info(data_commands)
    add_checkpoint_commands(commands)
    return parser


def _add_collect(commands: argparse._SubParsersAction) -> None:
    collect = commands.add_parser("collect", help="collect a small offline dataset of each task")
    collect.add_argument("tasks", nargs="+", metavar="TASK", help="as `pwmray tasks` lists them")
    collect.add_argument(
        "--episodes",
        type=int,
        default=_DEFAULTS.num_episodes,
        metavar="N",
        help="500 steps each; default %(default)s",
    )
    collect.add_argument(
        "--seed",
        type=int,
        default=_DEFAULTS.seed,
        metavar="S",
        help="of the collection; default %(default)s",
    )
    _add_data_dir(collect)
    collect.add_argument("--rebuild", action="store_true", help="replace data that is there")
    collect.set_defaults(run=_collect)


def _add_info(commands: argparse._SubParsersAction) -> None:
    info = commands.add_parser("info", help="describe a data file, or all collected of a task")
    info.add_argument("what", metavar="FILE-or-TASK")
    _add_data_dir(info)
    info.set_defaults(run=_describe)


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, default=DEFAULT_DATA_DIR, metavar="DIR", help="default %(default)s"
    )


def _collect(chosen: argparse.Namespace) -> None:
    # dm_control picks a renderer when it is imported; collecting needs none.
    os.environ.setdefault("MUJOCO_GL", "disable")
    logging.getLogger("absl").setLevel(logging.ERROR)  # a warning for every compiled model
    from pwmray.data.collected import ensure_data
    from pwmray.envs.vector import make_vector

    for task in chosen.tasks:
        find_task(task)
    recipe = CollectionRecipe(num_episodes=chosen.episodes, seed=chosen.seed)
    for task in chosen.tasks:
        with show_progress(task) as progress:
            path = ensure_data(task, recipe, chosen.data, make_vector, progress, chosen.rebuild)
        print(f"{task}: {path}")


def _describe(chosen: argparse.Namespace) -> None:
    for path in _data_files(chosen.what, chosen.data):
        _describe_file(path)


def _data_files(what: str, data_dir: Path) -> list[Path]:
    if what not in TASKS:
        if not Path(what).exists() and "." not in what and "/" not in what:
            find_task(what)  # a mistyped task: say which is near
        return [Path(what)]
    found = sorted((data_dir / "collected").glob(f"{what}-????????????.arrow"))
    if not found:
        raise ValueError(
            f"no data of {what!r} in {data_dir / 'collected'}; make it with: "
            f"pwmray data collect {what}"
        )
    return found


def _describe_file(path: Path) -> None:
    from pwmray.data.store import open_store

    store = open_store(path)
    store.verify()
    print(f"file         {path} ({path.stat().st_size / 2**20:.1f} MiB)")
    print(f"task         {store.task}")
    print(f"fingerprint  {store.fingerprint}")
    print(f"episodes     {store.num_episodes} with {len(store.reward)} rows")
    print(f"recipe       {', '.join(f'{key}={value}' for key, value in store.recipe.items())}")
    print(f"{'behaviour':<20} {'episodes':>8} {'mean':>7} {'min':>7} {'max':>7}  (return)")
    for name in dict.fromkeys(store.behaviours):
        here = store.returns[[behaviour == name for behaviour in store.behaviours]]
        figures = f"{here.mean():>7.1f} {here.min():>7.1f} {here.max():>7.1f}"
        print(f"{name:<20} {len(here):>8} {figures}")


def _list_tasks(_: argparse.Namespace) -> None:
    from pwmray.task_table import as_table

    print(as_table())


def _show_models(chosen: argparse.Namespace) -> None:
    from pwmray.model_table import as_table, make_rows

    print(as_table(make_rows(chosen.size, chosen.variant)))


if __name__ == "__main__":
    sys.exit(main())
