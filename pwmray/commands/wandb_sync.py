"""`pwmray wandb`: write and send the W&B runs of trials and pretrainings."""

import argparse

from pwmray.commands import Subcommands, add_results_option, show_progress
from pwmray.registry.sweep_folders import find_sweep, list_sweeps
from pwmray.tracking.protocol import Job
from pwmray.tracking.recording import RecorderProcess
from pwmray.wording import number_of


def add_wandb_command(commands: Subcommands) -> None:
    """Add `wandb sync`."""
    parser = commands.add_parser("wandb", help="send runs to Weights & Biases")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    sync = actions.add_parser(
        "sync",
        help="write every run that is missing or has grown and send what W&B lacks; safe to repeat",
    )
    sync.add_argument(
        "sweep", nargs="?", metavar="SWEEP", help="default: all trials and pretrainings"
    )
    sync.add_argument("--project", metavar="P", help="default: MT30-Detailed and WM-Pretrain")
    sync.add_argument("--entity", metavar="E", help="your user's or team's name at W&B")
    add_results_option(sync)
    sync.set_defaults(run=_sync)


def _sync(chosen: argparse.Namespace) -> None:
    """Raise ValueError where anything could not be written or sent."""
    results_dir = chosen.results.resolve()
    if chosen.sweep is not None:
        find_sweep(results_dir, chosen.sweep)
    list_sweeps(results_dir)  # raises where there is no such folder
    job = Job(
        str(results_dir), chosen.sweep, is_online=True, project=chosen.project, entity=chosen.entity
    )
    with show_progress("W&B") as progress:
        report = RecorderProcess(
            job, lambda done, of: progress("writing and sending runs", done, of)
        ).follow()
    said = f"{number_of(report.written, 'run')} written, {report.sent} sent"
    if report.running:
        said += f"; {report.running} of trials that run now are left for later"
    if report.elsewhere:
        said += f"; {report.elsewhere} are being written by another process"
    if report.problem:
        raise ValueError(f"W&B: {said}; {report.problem}")
    is_all = not (report.written or report.sent or report.running or report.elsewhere)
    print("W&B: has all there is" if is_all else f"W&B: {said}")
