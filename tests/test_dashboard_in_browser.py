"""A real sweep on a Ray of its own, seen in Ray's dashboard and scraped as Prometheus would.

With PWMRAY_SCREENSHOT=docs/dashboard/trials.png the picture is written there.
"""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest

from pwmray.gauges import GAUGES, GPU_MEMORY, TAGS
from tests.dashboard_file import list_expressions, names_in, tags_in
from tests.waiting import wait_for

WATCHED = Path(__file__).parent / "watched.py"
SHORT, LONG = (  # they run at once, and the short one's worker then runs another
    "phase6 baseline walker-stand 200 s42",
    "phase6 baseline walker-stand 100000 s42",
)
SECONDS = 1500  # that each is waited for: 270 s under a load of 20 a core
ON_CPU = {f"ray_{name}" for name in GAUGES if name != GPU_MEMORY}
SAMPLE = re.compile(r"^(ray_pwmray_\w+)\{(.*)\} (\S+)$", re.M)

pytestmark = [pytest.mark.slow, pytest.mark.browser]


class Sweep(NamedTuple):
    """A running sweep: where its dashboard is, how to get in, and which workers ran what."""

    folder: Path
    url: str
    token_file: Path
    process: subprocess.Popen
    workers: dict[str, str]  # that ran the trials scraped so far

    @property
    def token(self) -> str:
        return self.token_file.read_text()

    def ask(self, path: str, token: str | None = None) -> str:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(self.url + path, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read().decode()

    def scrape(self) -> list[tuple[str, dict[str, str], float]]:
        """Return name, labels and value of what the sweep's own Ray exports of its trials."""
        session_name = json.loads(self.ask("/api/version", self.token))["session_name"]
        samples = []
        for group in json.loads(self.ask("/api/prometheus/sd", self.token)):
            for target in group["targets"]:
                samples += read_samples(target)
        own = [sample for sample in samples if sample[1]["SessionName"] == session_name]
        self.workers.update({labels["trial"]: labels["WorkerId"] for _, labels, _ in own})
        return own


def read_samples(target: str) -> list[tuple[str, dict[str, str], float]]:
    try:
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=20) as answer:
            text = answer.read().decode()
    except OSError:  # the list names what is not started here, too
        return []
    return [
        (name, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value))
        for name, labels, value in SAMPLE.findall(text)
    ]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Start the sweep and stop it as a person would."""
    folder = tmp_path_factory.mktemp("sweep")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    own = {"PYTHONUNBUFFERED": "1"}
    own["RAY_metrics_report_interval_ms"] = "2000"  # a short trial is seen before it ends
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, str(WATCHED), "--scale", "tiny"],
            cwd=folder, stdout=said, stderr=said, env=clean | own,
        )  # fmt: skip
    told = r"Ray dashboard: (http://127\.0\.0\.1:\d+)\n.*: see (\S+), which only you can read"
    try:
        found = wait_for(
            lambda: re.search(told, (folder / "said").read_text()) or process.poll() is not None,
            SECONDS,
        )
        assert process.poll() is None, (folder / "said").read_text()
        yield Sweep(folder, found[1], Path(found[2]), process, {})
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)


def test_the_dashboard_is_closed_without_the_token_and_the_token_to_others(sweep):
    for token, code in ((None, 401), ("wrong", 403)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            sweep.ask("/api/v0/tasks", token)
        assert refused.value.code == code
    assert json.loads(sweep.ask("/api/v0/tasks", sweep.token))["result"]
    assert stat.S_IMODE(sweep.token_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(sweep.token_file.parent.stat().st_mode) == 0o700


def test_running_trials_are_scraped_under_their_names_with_all_tags(sweep):
    found = []

    def has_all():
        found.extend(sample for sample in sweep.scrape() if sample[1]["trial"] in (SHORT, LONG))
        return len({(name, labels["trial"]) for name, labels, _ in found}) == 2 * len(ON_CPU)

    wait_for(has_all, SECONDS)
    assert {name for name, _, _ in found} == ON_CPU
    assert {tuple(labels[tag] for tag in TAGS) for _, labels, _ in found} == {
        (trial, "phase6", "walker-stand", "baseline", "42") for trial in (SHORT, LONG)
    }

    def find_one_row():  # Ray may export between two gauges of a row
        values = {name: value for name, of, value in sweep.scrape() if of["trial"] == LONG}
        reached, ratio = values.get("ray_pwmray_epoch"), values.get("ray_pwmray_progress_ratio")
        return reached is not None and ratio == reached / 100_000 and values

    values = wait_for(find_one_row, SECONDS)
    assert values["ray_pwmray_epoch"] >= 20
    assert values["ray_pwmray_epochs_per_second"] > 0
    assert 0 < values["ray_pwmray_return"] <= 1000


def test_the_dashboard_for_grafana_asks_for_what_is_scraped(sweep):
    found = wait_for(sweep.scrape, SECONDS, pause=1.0)
    names, labels = {name for name, _, _ in found}, set(found[0][1])
    asked = set().union(*(names_in(expression) for expression in list_expressions()))
    assert asked - names == {f"ray_{GPU_MEMORY}"}  # the tests run without a GPU
    tags = set().union(*(tags_in(expression) for expression in list_expressions()))
    assert tags <= labels


def test_a_finished_trial_is_no_longer_scraped_while_its_worker_runs_another(sweep):
    worker = sweep.workers[SHORT]

    def runs_another():
        shown = {labels["trial"]: labels["WorkerId"] for _, labels, _ in sweep.scrape()}
        return SHORT not in shown and worker in shown.values()

    assert wait_for(runs_another, SECONDS)


def test_a_person_gets_in_with_the_token_and_sees_the_trials_by_name(sweep, browser, tmp_path):
    browser.open(f"{sweep.url}/#/jobs/01000000", (1250, 900))
    browser.wait_for("//*[@role='dialog']//input").send_keys(sweep.token)
    browser.wait_for("//*[@role='dialog']//button[text()='Submit']").click()
    browser.wait_for("//*[text()='Task Table']").click()
    browser.wait_for("//label[text()='State']/following::input").send_keys("RUNNING")
    browser.wait_for("//*[@role='option'][.='RUNNING']").click()
    browser.wait_for(f"//td[contains(., '{LONG}')]")
    browser.wait_for("//tbody[count(tr)=2][contains(., 'phase6 fullflow')]")
    assert {c["name"] for c in browser.driver.get_cookies()} == {"ray-authentication-token"}

    table = "//*[text()='Task Table']/following::table[1]/ancestor::*[contains(@class, 'Paper')][1]"
    picture = browser.screenshot(tmp_path / "trials.png", browser.wait_for(table))
    assert 5_000 < picture.stat().st_size < 300_000
    if target := os.environ.get("PWMRAY_SCREENSHOT"):
        Path(target).write_bytes(picture.read_bytes())


def test_worker_processes_are_called_by_their_trial_of_the_moment(sweep, browser):
    browser.open(f"{sweep.url}/#/cluster", (1700, 900))
    for trial in (LONG, "phase6 fullflow"):
        browser.wait_for(f"//tbody//*[starts-with(text(), 'ray::{trial}')]")


def test_the_token_is_in_no_file_of_the_sweep_and_gone_with_it(sweep):
    token = sweep.token
    sweep.process.send_signal(signal.SIGINT)
    assert sweep.process.wait(timeout=120) == 130
    files = [path for path in sweep.folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if token.encode() in path.read_bytes()]
    assert not sweep.token_file.parent.exists()
