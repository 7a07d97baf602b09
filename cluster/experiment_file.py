"""The sweep or search that a file in sweeps/ runs."""

import ast
from pathlib import Path

from pwmray import sweep_file
from pwmray.search import Search
from pwmray.sweep import Sweep
from pwmray.wording import nearest

_USUAL = ("sweep", "search")


def load_experiment(path: Path) -> Sweep | Search:
    """Return the sweep or search that the file runs.

    That is the one whose `main` it calls, else the one named `sweep` or `search`, else the only
    one. Raises ValueError if there is none, if there are several to choose from, or if the file
    cannot be loaded.
    """
    if not path.is_file():
        files = sorted(map(str, path.parent.glob("[!_.]*.py")))
        known = f"{nearest(str(path), files)} valid: {', '.join(files)}" if files else ""
        raise ValueError(f"no sweep file {path}{known}")
    found = {k: v for k, v in sweep_file.load(path).items() if isinstance(v, Sweep | Search)}
    run_by = [o.id for o in sweep_file.owners_of_main(path) if isinstance(o, ast.Name)]
    for names in (run_by, _USUAL, found):
        chosen = {id(found[name]): name for name in names if name in found}
        if len(chosen) > 1:
            several = ", ".join(chosen.values())
            raise ValueError(
                f"{path} defines several: {several}; call the one to submit sweep or search"
            )
        for name in chosen.values():
            found[name].check()
            return found[name]
    raise ValueError(
        f"{path} defines no Sweep and no Search; pretrainings are submitted with a sweep that "
        "starts from them, by its option --pretrain"
    )


def check_run(path: Path) -> None:
    """Raise ValueError for a file that runs nothing: its job would succeed and do nothing."""
    if not sweep_file.owners_of_main(path):
        raise ValueError(
            f"{path} calls no main, so a job would run nothing: end it with if __name__ == "
            '"__main__": and main() of its sweep or search'
        )
