"""The `pwmray` command: data, evaluation, checkpoints, the record of trials, what models cost."""

import argparse
import sys
from collections.abc import Iterable, Sequence

from cluster.cancel import add_cancel_command
from cluster.watch import add_watch_command
from pwmray.commands import CommandParser, Subcommands, run_command
from pwmray.commands.checkpoint import add_checkpoint_commands
from pwmray.commands.data import add_data_commands
from pwmray.commands.evaluate import add_evaluate_command
from pwmray.commands.log import add_log_command
from pwmray.commands.predict import add_predict_command
from pwmray.commands.prune import add_prune_command
from pwmray.commands.status import add_status_command
from pwmray.commands.trials import add_trial_commands
from pwmray.commands.wandb_sync import add_wandb_command
from pwmray.wording import unknown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; 2 with one line for bad input."""
    return run_command(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int | None:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = CommandParser(prog="pwmray", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_commands(commands)
    _check_command(arguments, commands.choices)
    chosen = parser.parse_args(arguments)
    return chosen.run(chosen)


def _check_command(arguments: Sequence[str], known: Iterable[str]) -> None:
    """Raise ValueError for an option before the command, and for a command that is none."""
    first = arguments[0] if arguments else "--help"
    if first.startswith("-") and first not in ("-h", "--help"):
        raise ValueError(f"{first} must follow the command: pwmray COMMAND, then its options")
    if not first.startswith("-") and first not in known:
        raise ValueError(unknown("command", first, known))


def _add_commands(commands: Subcommands) -> None:
    tasks = commands.add_parser("tasks", help="list the 30 tasks with floors, published returns")
    tasks.set_defaults(run=_list_tasks)
    models = commands.add_parser("models", help="show parameters, network calls and FLOPs")
    models.add_argument("--size", metavar="S", help="1, 5, 19, 48, 317 or laptop; default: all")
    pair = "baseline, ..., fullflow, or any two kinds as mlp+flow; default: all of the 2x2"
    models.add_argument("--variant", metavar="V", help=pair)
    models.set_defaults(run=_show_models)
    add_data_commands(commands)
    add_evaluate_command(commands)
    add_predict_command(commands)
    add_checkpoint_commands(commands)
    add_status_command(commands)
    add_watch_command(commands)
    add_cancel_command(commands)
    add_trial_commands(commands)
    add_log_command(commands)
    add_prune_command(commands)
    add_wandb_command(commands)


def _list_tasks(_: argparse.Namespace) -> None:
    from pwmray.commands.task_table import as_table

    print(as_table())


def _show_models(chosen: argparse.Namespace) -> None:
    from pwmray.commands.model_table import as_table, make_rows

    print(as_table(make_rows(chosen.size, chosen.variant)))


if __name__ == "__main__":
    sys.exit(main())
