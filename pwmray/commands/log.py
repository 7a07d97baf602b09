"""`pwmray log`: write the experiment log."""

import argparse
import io
import sys
from pathlib import Path

from pwmray.commands import Subcommands, add_results_option
from pwmray.files import replacing


def add_log_command(commands: Subcommands) -> None:
    """Add `log`."""
    log = commands.add_parser("log", help="print the experiment log as Markdown")
    log.add_argument("--out", type=Path, metavar="FILE", help="write it there; default: print it")
    add_results_option(log)
    log.set_defaults(run=_log)


def _log(chosen: argparse.Namespace) -> None:
    from pwmray.commands.experiment_log import render  # which loads torch

    text = render(chosen.results)
    if chosen.out is None:
        if isinstance(sys.stdout, io.TextIOWrapper):  # the locale may lack its symbols
            sys.stdout.reconfigure(errors="replace")
        print(text, end="")
        return
    with replacing(chosen.out) as draft:
        draft.write_text(text, encoding="utf-8")
    print(f"wrote {chosen.out}")
