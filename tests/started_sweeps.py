"""The tiny sweep in a process of its own, and what it leaves."""

from pathlib import Path

from pwmray import registry
from pwmray.results import read_table
from tests.held import start_script
from tests.waiting import wait_for

TINY = Path(__file__).parent / "tiny.py"


def start(folder, *options, **environment):
    return start_script(folder, TINY, *options, **environment)


def run(folder, *options, **environment):
    process = start(folder, *options, **environment)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def trial_statuses(folder, results="results"):
    table = read_table(folder / results / "tiny" / "trials.arrow")
    return table["status"].to_pylist()


def curves(folder, results="results"):
    table = read_table(folder / results / "tiny" / "curves.arrow").drop_columns(["seconds"])
    return sorted(table.to_pylist(), key=lambda row: (row["trial"], row["epoch"]))


def wait_for_event(folder, status):
    def find():
        paths = (folder / "results" / "trials").glob("*")
        return next((path for path in paths if registry.read(path).status is status), None)

    return wait_for(find, 200, lambda: f"no trial became {status}")
