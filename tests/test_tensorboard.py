"""TensorBoard itself on a results folder, over HTTP, while the trials go on."""

import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request

import pytest

from pwmray.tensorboard_file import write_events
from tests.tracked import BEGUN, ROWS, TRIALS, leave_sweep
from tests.waiting import wait_for

pytestmark = pytest.mark.slow
MORE = {"epoch": 6, "seconds": 9.0, "return_mean": 30.0}
RUN = f"trials/{TRIALS[0].label}"


@pytest.fixture(params=["true", "false"], ids=["data server", "python"])
def address(request, tmp_path):
    """TensorBoard's own server on a sweep's folder, with its fast and with its other reader."""
    for folder in leave_sweep(tmp_path):
        write_events(folder, ROWS, "epoch", BEGUN)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path / "tiny")]
    options = ["--port", "0", "--reload_interval", "1", f"--load_fast={request.param}"]
    log = tmp_path / "tensorboard.log"
    with open(log, "w") as sink:
        process = subprocess.Popen([*command, *options], stdout=sink, stderr=sink)
    try:
        yield wait_for(lambda: re.search(r"at (http://[^/]+)/", log.read_text()))[1]
    finally:
        process.terminate()
        process.wait(timeout=30)


def get(address, path, **query):
    url = f"{address}/data/plugin/scalars/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def curve(address, run=RUN, tag="return_mean"):
    """Return what the page draws: (epoch, value) of one run's scalar."""
    runs = get(address, "tags")
    if tag not in runs.get(run, {}):
        return []
    return [(step, value) for _, step, value in get(address, "scalars", run=run, tag=tag)]


def test_trials_appear_by_name_and_no_epoch_twice_while_they_go_on(address, tmp_path):
    first, names = [(2, 10.0), (4, 20.0)], {f"trials/{trial.label}" for trial in TRIALS}
    wait_for(lambda: curve(address) == first)
    wait_for(lambda: get(address, "tags").keys() == names)  # it reads one after the other

    (folder, _) = sorted(
        (tmp_path / "trials").iterdir(), key=lambda path: path.name != TRIALS[0].fingerprint
    )
    write_events(folder, [*ROWS, MORE], "epoch", BEGUN)
    wait_for(lambda: curve(address) == [*first, (6, 30.0)])

    resumed = {**ROWS[1], "seconds": 7.0}  # from the checkpoint of epoch 2
    write_events(folder, [ROWS[0], resumed], "epoch", BEGUN)
    write_events(folder, [ROWS[0], resumed, {**MORE, "return_mean": 30.5}], "epoch", BEGUN)
    wait_for(lambda: curve(address) == [*first, (6, 30.5)])
