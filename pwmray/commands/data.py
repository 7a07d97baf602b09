"""`pwmray data`: collect, import, export, describe and verify data."""

import argparse
from pathlib import Path
from typing import Any

from pwmray.commands import CommandParser, Subcommands, check_distinct, names, show_progress
from pwmray.commands.collect import add_collect_command
from pwmray.data.layouts import COLLECTED, SOURCES
from pwmray.tasks import TASKS, find_task
from pwmray.wording import number_of

DEFAULT_DATA_DIR = Path("data")
BROKEN = 1  # exit code of `data verify`


class _Parser(CommandParser):
    """A parser that also takes files and tasks after options, which argparse would refuse."""

    _is_within = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse intermixed options and arguments; argparse's function for that calls this again."""
        if self._is_within:
            return super().parse_known_args(args, namespace)
        self._is_within = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_within = False


def add_data_commands(commands: Subcommands) -> None:
    """Add `data collect`, `import`, `export`, `info` and `verify`."""
    data = commands.add_parser("data", help="make, convert, describe and verify data")
    actions = data.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    add_collect_command(actions, _add_data_dir)
    _add_import(actions)
    _add_export(actions)
    _add_info(actions)
    _add_verify(actions)


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    told = f"data folder; default: {DEFAULT_DATA_DIR}"
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA_DIR, metavar="DIR", help=told)


# Import and export


def _add_import(commands: Subcommands) -> None:
    parser = commands.add_parser(
        "import",
        help="convert the chunks of a published dataset",
        description="Read TD-MPC2's chunk_*.pt files, of MT30 or MT80, and write one file per "
        "task. Wherever it is stopped, the same command continues. Chunks are pickles; no code in "
        "them is run without --trust.",
    )
    parser.add_argument("source", type=Path, metavar="DIR", help="the folder with the chunks")
    _add_data_dir(parser)
    _add_tasks(parser, "only these tasks; default: all of MT30's. Others can be added later")
    parser.add_argument(
        "--partial", action="store_true", help="do without the chunks that are missing"
    )
    parser.add_argument("--rebuild", action="store_true", help="start again; replace what is there")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="load chunks of an unknown form, which may run code of whoever wrote them",
    )
    parser.set_defaults(run=_import)


def _add_export(commands: Subcommands) -> None:
    parser = commands.add_parser(
        "export", help="write data as chunk_*.pt files that TD-MPC2's own code loads"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to create")
    parser.add_argument(
        "files", type=Path, nargs="*", default=[], metavar="FILE", help="only these files"
    )
    _add_data_dir(parser)
    _add_tasks(parser, "only these tasks; default: all that there are")
    parser.add_argument(
        "--source",
        choices=SOURCES,
        help="collected, or an imported dataset; default: the imported one where there is one",
    )
    parser.set_defaults(run=_export)


def _add_tasks(parser: argparse.ArgumentParser, help_text: str) -> None:
    parser.add_argument("--tasks", type=names, default=(), metavar="A,B", help=help_text)


def _import(chosen: argparse.Namespace) -> None:
    from pwmray.commands.data_info import describe_dataset
    from pwmray.data.importing import import_dataset

    with show_progress("import") as progress:
        manifest = import_dataset(
            chosen.source,
            chosen.data,
            progress,
            chosen.tasks,
            trust=chosen.trust,
            is_partial=chosen.partial,
            rebuild=chosen.rebuild,
        )
    print("\n".join(describe_dataset(manifest, chosen.data)))


def _export(chosen: argparse.Namespace) -> None:
    from pwmray.data.exporting import export_stores
    from pwmray.data.store import open_store

    for task in chosen.tasks:
        find_task(task)
    if chosen.files and (chosen.tasks or chosen.source):
        option = "--tasks" if chosen.tasks else "--source"
        raise ValueError(
            f"{option} selects among the data's files; leave it out where you name FILE"
        )
    check_distinct(chosen.files)
    stores = [open_store(path) for path in chosen.files or _exported_files(chosen)]
    with show_progress("export") as progress:
        chunks = export_stores(stores, chosen.out, progress)
    num_episodes = sum(store.num_episodes for store in stores)
    print(f"{chosen.out}: {number_of(num_episodes, 'episode')} in {', '.join(chunks)}")


def _exported_files(chosen: argparse.Namespace) -> list[Path]:
    """Return one file for each task to export, all from one source."""
    from pwmray.data.inventory import find_datasets, find_files

    source = chosen.source or next(iter(find_datasets(chosen.data)), COLLECTED)
    folder = chosen.data / source
    found = [file.path for file in find_files(chosen.data) if file.path.parent == folder]
    by_task = {task: [path for path in found if _task_of(path) == task] for task in TASKS}
    wanted = chosen.tasks or [task for task, paths in by_task.items() if paths]
    if not wanted:
        raise ValueError(f"no data in {folder}")
    for task in wanted:
        if len(by_task[task]) != 1:
            listed = ", ".join(path.name for path in by_task[task]) or "no file"
            raise ValueError(
                f"{folder} has {listed} of {task}; name the files: export OUT FILE ..."
            )
    return [by_task[task][0] for task in wanted]


def _task_of(path: Path) -> str:
    """Return the task in a file's name, which is walker-run or walker-run-0123456789ab."""
    return path.stem if path.stem in TASKS else path.stem.rpartition("-")[0]


# Info and verify


def _add_info(commands: Subcommands) -> None:
    info = commands.add_parser("info", help="describe all data, or a task's, dataset's or file's")
    info.add_argument("what", nargs="?", default="", metavar="TASK|DIR|FILE")
    _add_data_dir(info)
    info.set_defaults(run=_describe)


def _add_verify(commands: Subcommands) -> None:
    verify = commands.add_parser("verify", help="read and check all data; exit code 1 if broken")
    _add_data_dir(verify)
    verify.set_defaults(run=_verify)


def _describe(chosen: argparse.Namespace) -> None:
    from pwmray.commands import data_info

    if chosen.what in TASKS:
        lines = data_info.describe_task(chosen.what, chosen.data)
    else:
        lines = data_info.describe_path(Path(chosen.what), chosen.data)
    print("\n".join(lines))


def _verify(chosen: argparse.Namespace) -> int:
    from pwmray.commands.data_info import find_faults

    with show_progress("verify") as progress:
        num_files, faults = find_faults(chosen.data, progress)
    print("\n".join([*faults, f"{num_files - len(faults)} of {num_files} files are intact"]))
    return BROKEN if faults else 0
