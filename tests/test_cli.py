import errno
import gc
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import rich.progress

from pwmray import cli
from pwmray.commands import _freeze_imports, run_command, show_progress
from pwmray.data.store import open_store
from pwmray.files import replacing
from pwmray.registry import claim
from pwmray.tasks import TASKS
from pwmray.wording import as_typed

ROOT = Path(__file__).parent.parent


def command(*arguments):
    return [sys.executable, "-m", "pwmray.cli", *map(str, arguments)]


def start_process(arguments):
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_command_collects_and_describes(tmp_path, capsys):
    arguments = ["data", "collect", "pendulum-spin", "--episodes", "1", "--data", str(tmp_path)]
    assert cli.main(arguments) == 0
    path = tmp_path / "collected" / capsys.readouterr().out.split("/")[-1].strip()
    assert cli.main(["data", "info", "pendulum-spin", "--data", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert open_store(path).fingerprint in shown
    assert "1 with 501 rows" in shown


def test_ctrl_c_ends_with_130_one_line_and_no_half_written_file(tmp_path):
    long = ("--episodes", 10_000)  # minutes
    run = start_process(command("data", "collect", "walker-run", *long, "--data", tmp_path))
    # Before that it imports mujoco, whose compiled code changes how Python ends on an interrupt.
    assert "collecting" in run.stderr.readline()
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=20)
    assert run.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    assert list((tmp_path / "collected").iterdir()) == []


@pytest.mark.parametrize(
    ("closed", "episodes", "code"),
    [("<&- >&- 2>&-", "1", 0), (">&-", "0", 2), ("2>&-", "0", 2)],
)
def test_closed_streams_change_nothing_but_what_is_said(closed, episodes, code, tmp_path):
    asked = command("data", "collect", "pendulum-spin", "--data", tmp_path, "--episodes", episodes)
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *asked]
    run = subprocess.run(shell, capture_output=True, text=True)
    assert (run.returncode, "Traceback" in run.stderr) == (code, False)
    assert len(list(tmp_path.rglob("*.arrow"))) == (code == 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["dta"], "unknown command 'dta'; did you mean 'data'? valid: tasks, models, data"),
        (["--results", "r", "status"], "--results must follow the command: pwmray COMMAND"),
        (["data", "collect"], "the following arguments are required: TASK"),
        (
            ["data", "collect", "chetah-run"],
            "unknown task 'chetah-run'; did you mean 'cheetah-run'",
        ),
        (
            ["data", "collect", "cheetah-run", "--episodes", "0"],
            "data.num_episodes is 0; it must",
        ),
        (["data", "collect", "cheetah-run", "--episodes", "x"], "invalid int value: 'x'"),
        (["data", "collect", "cheetah-run", "--frob"], "unrecognized arguments: --frob"),
        (["data", "collect", "cheetah-run", "--data", "/dev/null"], "to /dev/null/collected"),
        (["data", "collect", "cheetah-run", "--epi", "9"], "unrecognized arguments: --epi 9"),
        (["data", "info", "chetah-run"], "did you mean 'cheetah-run'"),
        (["data", "info", "absent.arrow"], "there is no data file absent.arrow"),
        (["data", "info", "cheetah-run", "--data", "/absent"], "pwmray data collect cheetah-run"),
        (["data", "export"], "the following arguments are required: OUT (see"),
        (["models", "--size", "49"], "unknown size '49'; did you mean '48'? valid: laptop, 1, 5"),
        (["models", "--variant", "ful"], "unknown variant 'ful'; did you mean 'fullflow'"),
        (["models", "48"], "unrecognized arguments: 48"),
        (["models", "--size", ""], "argument --size: it is empty (see pwmray models --help)"),
        (["data", "info", "--data="], "argument --data: it is empty"),
        (["evaluate", "x", "--task", ""], "argument --task: it is empty"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(arguments, message, capsys):
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert message in err


def test_package_is_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pwmray", "status"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no results folder results")


@pytest.mark.parametrize(
    ("run", "typed"),
    [(None, "pwmray log"), ("./run", "./run pwmray log"), ("/a b/run", "'/a b/run' pwmray log")],
)
def test_commands_are_printed_as_they_are_typed(run, typed, monkeypatch):
    if run is not None:
        monkeypatch.setenv("PWMRAY_RUN", run)
    assert as_typed("pwmray log") == typed


def test_printed_commands_name_scripts_so_that_they_are_found_from_here(tmp_path, monkeypatch):
    command = "python analysis/summarize.py tiny --plot"
    script = ROOT / "analysis" / "summarize.py"
    monkeypatch.chdir(ROOT)
    assert as_typed(command) == command
    monkeypatch.chdir(tmp_path)
    assert as_typed(command) == f"python {shlex.quote(str(script))} tiny --plot"
    assert as_typed("python sweeps/no.py --limit 1") == "python sweeps/no.py --limit 1"
    monkeypatch.setenv("PWMRAY_RUN", "/a/run")
    assert as_typed(command) == f"/a/run {command}"


def test_nothing_is_collected_when_one_of_several_tasks_is_wrong(tmp_path):
    arguments = ["data", "collect", "pendulum-spin", "pendlum-spin", "--data", str(tmp_path)]
    assert cli.main(arguments) == 2
    assert list(tmp_path.iterdir()) == []


def test_task_table_shows_every_task(capsys):
    assert cli.main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[1:31]] == list(TASKS)
    assert lines[4].split() == [
        *("3", "cheetah-run", "17", "6", "Euler", "10"),
        *("0.1", "7.6", "414.5", "148.1", "106.9"),
    ]


def test_model_table_shows_the_chosen_size_and_variant(capsys):
    assert cli.main(["models", "--size", "48", "--variant", "flowwm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[4].split()[:3] == ["48", "flowwm", "18,945,293"]


def test_failures_written_for_people_are_shown_and_bugs_are_not_hidden(capsys):
    assert run_command(lambda: int("x")) == 2
    assert run_command(lambda: os.mkdir("/absent/folder")) == 2
    assert run_command(lambda: len("b\udcfccher".encode())) == 2
    assert capsys.readouterr().err.splitlines()[1:] == [
        "error: No such file or directory: /absent/folder",
        r"error: 'b\udcfccher' cannot be written in utf-8; rename it",
    ]
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full disk's stand-in")
@pytest.mark.parametrize("is_buffered", [True, False])
@pytest.mark.parametrize(
    ("work", "code", "told"),
    [
        ("say('1 of 2 trials done') or 75", 75, ""),  # work that is done, but for its lines
        ("say('2 of 2 trials done')", 0, ""),
        ("print('a table')", 2, "error: No space left on device\n"),  # which is the work
        (
            "say('half', sys.stderr) or print('a table')",
            2,
            "half\nerror: No space left on device\n",
        ),
        ("int('x')", 2, "error: invalid literal for int() with base 10: 'x'\n"),
    ],
)
def test_exit_code_tells_of_the_work_where_a_full_disk_takes_no_line(work, code, told, is_buffered):
    program = (
        "import sys; from pwmray.commands import run_command, say\n"
        f"sys.exit(run_command(lambda: {work}))"
    )
    run = [sys.executable, "-c", program]
    there = {**os.environ, "PYTHONUNBUFFERED": "" if is_buffered else "1"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(run, stdout=full, stderr=subprocess.PIPE, text=True, env=there)
        assert (done.returncode, done.stderr) == (code, told)
        assert subprocess.run(run, stdout=full, stderr=full, env=there).returncode == code


def test_imports_are_frozen_once_however_many_commands_a_process_runs(monkeypatch):
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append("imports"))
    _freeze_imports.cache_clear()
    for _ in range(2):
        assert run_command(lambda: None) == 0
    assert frozen == ["imports"]


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        (
            "import pwmray.data.collected, pwmray.data.sampler",
            {"ray", "wandb", "gymnasium", "mujoco", "dm_control"},
        ),
        (
            "import pwmray.cli; pwmray.cli.main(['tasks'])",
            {"ray", "torch", "dm_control", "mujoco"},
        ),
        ("import pwmray.driver.launch", {"ray", "mujoco", "pandas"}),  # a sweep that is all done
    ],
)
def test_what_needs_no_heavy_package_loads_none(program, absent):
    program = f"import sys; {program}; assert not {absent} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", ["watch", "cancel"])
def test_files_of_the_clusters_commands_run_them(name):
    file = [sys.executable, str(Path(__file__).parent.parent / "cluster" / f"{name}.py")]
    run = subprocess.run([*file, "--help"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"usage: pwmray {name} ")


def test_user_whom_the_system_does_not_know_has_a_home(monkeypatch, capsys):
    def look_up(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", look_up)
    assert run_command(lambda: print(Path.home())) == 0
    assert capsys.readouterr().out == "/\n"


def test_refused_writing_names_the_file_that_was_to_be_written(tmp_path, monkeypatch, capsys):
    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def write_table():
        with replacing(tmp_path / "table.md") as draft:
            refuse(draft)

    monkeypatch.setattr(claim, "_write", refuse)
    assert run_command(write_table) == run_command(lambda: claim.acquire(tmp_path / "a.json")) == 2
    files = [tmp_path / "table.md", tmp_path / "a.json"]
    assert capsys.readouterr().err == "".join(f"error: Permission denied: {f}\n" for f in files)


def test_time_left_of_an_activity_is_told_by_its_own_pace(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("pwmray.commands.time.monotonic", lambda: now[0])
    with show_progress("predict") as progress:
        for seconds, what, done in ((0, "acting", 0), (5, "acting", 100), (10, "predicting", 500)):
            now[0] = 100.0 + seconds
            progress(what, done, 1000)
        now[0] += 10.0
        progress("predicting", 600, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "predict: acting, 0/1000",
        "predict: acting, 100/1000, 45 s left",
        "predict: predicting, 500/1000",
        "predict: predicting, 600/1000, 40 s left",
    ]


@pytest.fixture
def bar(monkeypatch):
    """Have progress shown as on a terminal, by a clock; return what holds its bar and the time."""
    shown, kind = SimpleNamespace(now=100.0), rich.progress.Progress

    def make(*columns, **options):
        shown.bar = kind(*columns, **options, get_time=lambda: shown.now)
        return shown.bar

    monkeypatch.setattr("pwmray.commands.is_screen", lambda _: True)
    monkeypatch.setattr(rich.progress, "Progress", make)
    return shown


def test_bar_tells_the_time_left_of_what_takes_minutes_a_step(bar):
    with show_progress("pretraining") as progress:
        for done in (1000, 2000, 3000):  # it went on from 1000
            progress("flow", done, 10_000)
            bar.now += 240.0
        assert bar.bar.tasks[0].time_remaining == pytest.approx(7 * 240)


def test_bar_tells_the_time_left_of_an_activity_by_its_own_pace(bar):
    with show_progress("data") as progress:
        for what, done in (("one", 0), ("one", 100), ("other", 0), ("other", 10), ("other", 20)):
            progress(what, done, 100)
            bar.now += 1.0
        assert bar.bar.tasks[0].time_remaining == pytest.approx(8)
