"""A webhook is told by real HTTP on this machine, and whatever it does harms nobody."""

import contextlib
import http.server
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pwmray import plan, pretrain_command, registry
from pwmray.driver import launch, notify
from pwmray.driver.notify import VARIABLE, Notices, from_environment
from pwmray.registry import Status, claim
from pwmray.tracking.recording import Mode
from tests import tiny_pretrained
from tests.tiny import sweep

ROOT = Path(__file__).parent.parent
SECRET = "T0/B0/sesame"


class Server(http.server.ThreadingHTTPServer):
    """Keeps what is posted to it and answers `answer`, as soon as `answers` is set."""

    daemon_threads = True
    answer = 200

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.posts, self.answers = [], threading.Event()
        self.answers.set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/{SECRET}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.answers.wait()
        self.server.posts.append((self.path, self.headers["Content-Type"], json.loads(body)))
        with contextlib.suppress(BrokenPipeError):
            self.send_response(self.server.answer)
            self.send_header("Location", "http://192.0.2.1/elsewhere")
            self.end_headers()

    def log_message(self, *_):
        pass


def test_driver_that_leaves_trials_to_others_does_not_tell_of_an_end(server, tmp_path, capsys):
    configs = sweep.trials("tiny")[:2]
    made = plan.make(sweep, "tiny", configs, tmp_path)
    done, other = (registry.trial_folder(tmp_path, config.fingerprint) for config in configs)
    for folder, config in zip((done, other), configs, strict=True):
        registry.queue(folder, config.to_dict())
        registry.record(folder, Status.RUNNING)
    for status in (Status.COMPLETED, Status.EVALUATED):
        registry.record(done, status)
    with claim.acquire(other / registry.CLAIM_FILE):
        code = launch._say_the_end(
            made, tmp_path / "tiny", launch._End(), "python tiny.py", Notices("tiny", server.url)
        )
    assert (code, server.posts) == (0, [])
    assert "still running in other processes: 1 trial" in capsys.readouterr().out
    launch._say_the_end(
        made, tmp_path / "tiny", launch._End(), "python tiny.py", Notices("tiny", server.url)
    )
    assert [post[2]["left"] for post in server.posts] == [1]


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.answers.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_end_while_world_models_are_made_is_told(server, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("cuDNN error")

    monkeypatch.setenv(VARIABLE, server.url)
    options = ["--scale", "tiny", "--pretrain", "--results", str(tmp_path)]
    monkeypatch.setattr(pretrain_command, "run_pretrainings", fail)
    with pytest.raises(RuntimeError):
        tiny_pretrained.sweep.main(options)
    monkeypatch.setattr(pretrain_command, "run_pretrainings", lambda *_: 1)
    with pytest.raises(SystemExit):
        tiny_pretrained.sweep.main(options)
    told = [post[2]["text"] for post in server.posts]
    assert told[0] == "tiny_pretrained ended with an error: cuDNN error"
    assert re.fullmatch(r"tiny_pretrained ended: 0 done, 0 failed, [1-9]\d* not run", told[1])


def test_end_is_posted_as_json(server, monkeypatch):
    monkeypatch.setenv(VARIABLE, server.url)
    monkeypatch.setenv("SLURM_JOB_ID", "4012555")
    from_environment("phase6").end(done=70, failed=1, left=1)
    ((path, kind, message),) = server.posts
    assert (path, kind) == (f"/{SECRET}", "application/json")
    assert message["text"] == "phase6 ended: 70 done, 1 failed, 1 not run"
    assert (message["event"], message["sweep"], message["slurm_job_id"]) == (
        "end",
        "phase6",
        "4012555",
    )
    assert (message["done"], message["failed"], message["left"]) == (70, 1, 1)


def test_driver_that_dies_of_an_error_tells_of_it(server, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, server.url)
    made = plan.make(sweep, "tiny", sweep.trials("tiny")[:1], tmp_path)
    with pytest.raises(ValueError, match="no Ray"):
        launch.run(made, tmp_path, "127.0.0.1:9", "python tiny.py", Mode.OFF)
    ((_, _, message),) = server.posts
    assert message["event"] == "end"
    assert message["text"] == f"tiny ended with an error: {message['error']}"
    assert "127.0.0.1:9" in message["error"]


def test_failures_are_told_at_three_and_then_when_they_have_doubled(server):
    notices = Notices("phase6", server.url)
    for number in range(1, 25):
        notices.failures(number, "KeyError: 'x'", "9 running")
    notices.end(0, 24, 0)
    told = [m["failed"] for _, _, m in server.posts if m["event"] == "failures"]
    assert sorted(told) == [3, 6, 12, 24]
    assert any(
        m["text"] == "phase6: 3 trials failed, the last: KeyError: 'x'. 9 running"
        for _, _, m in server.posts
    )


def test_nothing_is_sent_without_an_address(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    notices = from_environment("phase6")
    notices.failures(3, "", "")
    notices.end(1, 2, 3)
    assert notices._sent == []


@pytest.mark.parametrize("answer", [302, 307, 404, 500])
def test_answer_that_is_no_success_is_a_warning_without_the_secret(server, caplog, answer):
    server.answer = answer
    with caplog.at_level(logging.DEBUG):
        Notices("phase6", server.url).end(1, 0, 0)
    assert [r.getMessage() for r in caplog.records] == [
        f"webhook=127.0.0.1 not told: HTTP {answer}"
    ]
    assert len(server.posts) == 1


def test_server_that_is_not_there_is_a_warning(caplog):
    with socket.socket() as held:  # a port at which nobody listens
        held.bind(("127.0.0.1", 0))
        Notices("phase6", f"http://127.0.0.1:{held.getsockname()[1]}/{SECRET}").end(1, 0, 0)
    assert caplog.messages == ["webhook=127.0.0.1 not told: ConnectionRefusedError"]


def test_this_machine_is_told_past_a_proxy(server, monkeypatch):
    with socket.socket() as held:  # a port at which nobody listens
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{held.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        Notices("phase6", server.url).end(1, 0, 0)
    assert len(server.posts) == 1


def test_slow_server_holds_nobody_up(server, monkeypatch):
    monkeypatch.setattr(notify, "_CLOSE_SECONDS", 0.05)
    server.answers.clear()
    notices = Notices("phase6", server.url)
    notices.failures(3, "", "")
    notices.end(1, 0, 0)
    assert [thread.is_alive() for thread in notices._sent] == [True, True]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/sesame",
        "http://127.0.0.1.example.org/sesame",
        "http://localhost.example.org/sesame",
        "https:///sesame",
        "ftp://localhost/sesame",
        "file:///etc/sesame",
        "sesame",
        "https://user:sesame@example.org/",
        "https://example.org:99999/sesame",
        "https://example.org/sesame \n",
        "https://example.org/open sesame",
        "https://[::1/sesame",
    ],
)
def test_unsafe_address_is_refused_without_repeating_it(monkeypatch, url):
    monkeypatch.setenv(VARIABLE, url)
    with pytest.raises(ValueError, match="PWMRAY_WEBHOOK must be https") as caught:
        from_environment("phase6")
    assert "sesame" not in str(caught.value)


def test_refusal_names_scheme_and_host(monkeypatch):
    monkeypatch.setenv(VARIABLE, "http://example.org/sesame")
    with pytest.raises(ValueError, match="its scheme is 'http', its host"):
        from_environment("phase6")


@pytest.mark.parametrize(
    "url", ["https://example.org/x", "http://localhost:8080/x", "http://[::1]:80/", ""]
)
def test_safe_address_is_taken(monkeypatch, url):
    monkeypatch.setenv(VARIABLE, url)
    assert from_environment("phase6")._url == (url or None)


@pytest.mark.slow
def test_sweep_tells_of_its_failures_and_its_end(server, tmp_path):
    command = [sys.executable, str(ROOT / "tests" / "tiny.py"), "--scale", "diverging"]
    folders = ["--results", str(tmp_path / "results"), "--data", str(tmp_path / "data")]
    environment = {**os.environ, VARIABLE: server.url}
    done = subprocess.run(
        [*command, "--limit", "3", *folders], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    told = {message["event"]: message for _, _, message in server.posts}
    assert told["failures"]["failed"] == 3
    assert "FloatingPointError: diverged" in told["failures"]["text"]
    assert told["end"]["text"] == "tiny ended: 0 done, 3 failed, 0 not run"
    assert SECRET not in done.stdout + done.stderr
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in content for content in written)
