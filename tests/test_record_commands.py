"""The commands about trials, as a user types them, over records that trials left behind."""

import errno
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pwmray import plan as planning
from pwmray import plan_text, registry, slurm_jobs, tables
from pwmray.driver import launch
from pwmray.files import replacing
from pwmray.registry import Status
from pwmray.registry.sweep_folders import read_sweep
from pwmray.tracking.recording import Mode
from tests.records import NAMES, TRIALS, folder_of, make_results, run, stand_at
from tests.tiny import sweep


@pytest.fixture
def made(tmp_path):
    return make_results(tmp_path / "results")


@pytest.mark.parametrize("command", ["status", "log", "prune"])
def test_what_else_lies_among_the_trials_is_none(made, capsys, command):
    before = run(capsys, made, command)[1]
    (made / "trials" / ".DS_Store").write_bytes(b"x")
    (made / "trials" / "old").mkdir()
    code, out, err = run(capsys, made, command)
    assert (code, out, err) == (0, before, "")


# Show and note.


@pytest.mark.parametrize("how", ["fingerprint", "prefix", "name"])
def test_show_finds_a_trial_by_fingerprint_prefix_or_name(made, capsys, how):
    fingerprint = TRIALS[0].fingerprint
    text = {"fingerprint": fingerprint, "prefix": fingerprint[:10], "name": NAMES[0]}[how]
    code, out, err = run(capsys, made, "show", text)
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == [
        f"trial        {fingerprint}",
        f"name         {NAMES[0]}",
        "status       EVALUATED",
    ]
    assert "policy   2 episodes, return 30.00, min 29.00, max 31.00" in out
    assert re.search(r"return_mean +7\.25", out)
    assert re.search(r"world_model\.latent_dim +16", out)
    assert "best.pt        1.0 MB" in out


def test_show_says_what_a_trial_runs_without(tmp_path, capsys):
    why = "off: " + "no compiler " * 12
    stand_at(tmp_path, 0, Status.RUNNING, kernels=why, cuda_graph="off")
    lines = run(capsys, tmp_path, "show", folder_of(tmp_path, 0).name)[1].splitlines()
    assert lines[3:5] == [f"kernels      {why}", "cuda_graph   off"]


def test_note_is_shown_and_kept_for_good(made, capsys):
    for text in ("looks odd", "it was the seed"):
        code, out, _ = run(capsys, made, "note", NAMES[3], text)
        assert (code, out) == (0, f"noted on {NAMES[3]}\n")
    before = (folder_of(made, 3) / "events.jsonl").read_bytes()
    _, out, _ = run(capsys, made, "show", NAMES[3])
    assert [line.rpartition(": ")[2] for line in out.splitlines()[-2:]] == [
        "looks odd",
        "it was the seed",
    ]
    assert (folder_of(made, 3) / "events.jsonl").read_bytes() == before
    assert registry.read(folder_of(made, 3)).status is Status.RUNNING


def test_note_of_a_user_without_a_name_is_kept_under_a_number(made, capsys, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1_234_567)
    assert run(capsys, made, "note", NAMES[0], "hello")[0] == 0
    assert registry.read_notes(folder_of(made, 0))[0][0]["user"] == "1234567"


def test_note_is_of_who_writes_it_not_of_whose_environment_that_was(made, capsys, monkeypatch):
    monkeypatch.setenv("LOGNAME", "somebody-else")
    assert run(capsys, made, "note", NAMES[0], "hello")[0] == 0
    assert registry.read_notes(folder_of(made, 0))[0][0]["user"] == slurm_jobs.user()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("closed", [".", "tiny"])
def test_what_another_user_closed_is_named_with_its_owner(made, capsys, monkeypatch, closed):
    def listdir(path):
        if Path(path) == closed_to_us:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return list_all(path)

    def is_open(path):
        return closed_to_us not in Path(path).parents and exists(path)

    closed_to_us, list_all, exists = made / closed, os.listdir, os.path.exists
    os.chown(closed_to_us, 1_234_567, -1)
    monkeypatch.setattr(os, "listdir", listdir)
    monkeypatch.setattr(os.path, "exists", is_open)
    code, _, err = run(capsys, made, "failures", "tiny")
    said = f"error: Permission denied: {closed_to_us}, which is 1234567's\n"
    assert (code, err) == (2, said)


def test_notes_of_two_at_once_are_both_kept(made):
    threads = [
        threading.Thread(target=registry.add_note, args=(folder_of(made, 0), f"{i}", "u"))
        for i in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    notes = {note["note"] for note in registry.read_notes(folder_of(made, 0))[0]}
    assert notes == {str(i) for i in range(20)}


# Failures.


def test_failures_are_grouped_by_class_and_reason(made, capsys):
    code, out, _ = run(capsys, made, "failures", "tiny")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "config, 2 trials: ValueError: no window of 5 steps"
    assert [line.split()[0] for line in lines[2:4]] == [NAMES[5], NAMES[6]]
    assert lines[4].strip() == "Traceback (most recent call last):"
    assert out.count("Traceback") == 1


def test_failures_begin_with_the_cause_of_most_trials(tmp_path, capsys):
    for index, reason in enumerate(("KeyError: 'a'", "it burns", "it burns")):
        stand_at(tmp_path, index, Status.FAILED, failure="code", reason=reason)
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:3], tmp_path), "python tiny.py")
    out = run(capsys, tmp_path, "failures", "tiny")[1]
    assert re.findall("^code.*", out, re.MULTILINE) == [
        "code, 2 trials: it burns",
        "code, 1 trial: KeyError: 'a'",
    ]


def test_failure_of_a_trial_that_was_killed_is_at_the_epoch_of_its_last_row(tmp_path, capsys):
    stand_at(tmp_path, 0, Status.FAILED, failure="out of memory", reason="killed")
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:1], tmp_path), "python tiny.py")
    (line,) = re.findall(f"^ +{NAMES[0]}.*", run(capsys, tmp_path, "failures", "tiny")[1], re.M)
    assert line.split() == [NAMES[0], "2", "0"]


def test_failure_of_a_class_that_this_version_does_not_know_is_shown(tmp_path, capsys):
    stand_at(tmp_path, 0, Status.FAILED, failure="gpu on fire", reason="it burns")
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:1], tmp_path), "python tiny.py")
    assert "code, 1 trial: it burns" in run(capsys, tmp_path, "failures", "tiny")[1]
    assert "status       FAILED (code)" in run(capsys, tmp_path, "show", NAMES[0])[1]


def test_sweep_without_failures_says_so(tmp_path, capsys):
    stand_at(tmp_path, 0, Status.EVALUATED)
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:1], tmp_path), "python tiny.py")
    assert run(capsys, tmp_path, "failures", "tiny")[:2] == (0, "no trial of tiny has failed\n")


def test_driver_names_what_its_tables_lack_though_all_is_done(tmp_path, capsys):
    stand_at(tmp_path, 0, Status.EVALUATED)
    (folder_of(tmp_path, 0) / "evaluations.arrow").unlink()
    made = planning.make(sweep, "tiny", TRIALS[:1], tmp_path)
    assert launch.run(made, tmp_path, None, "python tiny.py", Mode.OFF) == 0
    said = f"left out of the tables: {folder_of(tmp_path, 0)}: EVALUATED without evaluations.arrow"
    assert capsys.readouterr().out.count(said) == 1


def test_trial_whose_record_lacks_its_config_is_left_out_of_the_tables_by_name(tmp_path):
    registry.record(folder_of(tmp_path, 0), Status.PENDING)
    made = planning.make(sweep, "tiny", TRIALS[:1], tmp_path)
    of_sweep = tables.Tables(tables.open_sweep(made, "python tiny.py"))
    of_sweep.write()
    said = f"left out of the tables: {folder_of(tmp_path, 0)}: its events.jsonl has no config"
    assert of_sweep.newly_left_out() == [said]


def test_note_that_is_no_text_is_refused_and_an_earlier_one_spoils_nothing(made, tmp_path, capsys):
    code, _, err = run(capsys, made, "note", NAMES[0], "a\udcffb")
    assert (code, err) == (2, "error: the note 'a\\udcffb' is not valid UTF-8\n")
    registry.add_note(folder_of(made, 0), "a\udcffb", "me")
    assert run(capsys, made, "show", NAMES[0])[1].rstrip().endswith("me: a?b")
    assert run(capsys, made, "log", "--out", tmp_path / "log.md")[0] == 0
    assert "a?b" in (tmp_path / "log.md").read_text(encoding="utf-8")


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "tny"], "unknown sweep 'tny'; did you mean 'tiny'? valid: tiny in "),
        (["status", "../tiny"], "unknown sweep '../tiny'"),
        (["show", "pendulum-spin-baseline-4-seed4"], f"did you mean '{NAMES[0]}'"),
        (["show", ""], "no trial ''"),
        (["show", "../../etc"], "no trial '../../etc'"),
        (["note", "zzzz", "text"], "no trial 'zzzz'"),
        (["note", NAMES[0], " "], "the note is empty"),
        (["note", NAMES[0]], "the following arguments are required: TEXT"),
        (["failures"], "the following arguments are required: SWEEP"),
        (["failures", "tny"], "did you mean 'tiny'"),
        (["prune", "tny"], "did you mean 'tiny'"),
        (["prune", "--older-than", "30"], "'30' is no age; valid: 12h, 30d, 8w"),
        (["prune", "--older-than", "999999w"], "'999999w' is too long; valid: up to 36500d"),
        (["prune", "--older-than", "36501d"], "'36501d' is too long; valid: up to 36500d"),
        (["prune", "--keep", "first"], "'first' cannot be kept; valid: last, best, none"),
        (["prune", "--keep", "best,none"], "'none' stands alone; valid: last, best, none"),
        (["prune", "--keep", "last,last"], "'last' is given twice"),
        (["log", "--out", ""], "argument --out: it is empty (see pwmray log --help)"),
        (["log", "--out", "/dev/null/log.md"], "/dev/null"),
        (["log", "--out", "/dev"], "Is a directory: /dev\n"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(made, capsys, arguments, message):
    code, out, err = run(capsys, made, *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err


@pytest.mark.parametrize("command", ["status", "log", "prune", "failures x", "show x", "note x y"])
def test_results_folder_that_is_not_there_is_named(tmp_path, capsys, command):
    code, _, err = run(capsys, tmp_path / "absent", *command.split())
    assert code == 2
    assert "there is no results folder" in err


def test_prefix_of_two_trials_is_refused_with_both(tmp_path, capsys):
    for name in ("ab12000000000000", "ab34000000000000"):
        registry.record(registry.trial_folder(tmp_path, name), Status.PENDING)
    code, _, err = run(capsys, tmp_path, "show", "ab")
    assert (code, "'ab' matches 2 trials: ab12000000000000, ab34000000000000" in err) == (
        2,
        True,
    )


def test_broken_record_stops_who_asks_for_it(made, capsys):
    (folder_of(made, 0) / "events.jsonl").write_text("{broken\n")
    code, _, err = run(capsys, made, "show", TRIALS[0].fingerprint)
    assert (code, "events.jsonl line 1 is not an event" in err) == (2, True)


def test_broken_note_is_named_and_the_others_are_shown(made, capsys):
    path = folder_of(made, 0) / "notes.jsonl"
    for text in ("before", "after"):
        run(capsys, made, "note", NAMES[0], text)
    before, after = path.read_text().splitlines(keepends=True)
    path.write_text(f"{before}<<<<<<< HEAD\n{after}")
    for command in (["show", NAMES[0]], ["log"]):
        code, out, err = run(capsys, made, *command)
        assert (code, err) == (0, "")
        assert "before" in out and "after" in out
        assert f"left out: {path} line 2 is not an event" in out
        assert "correct it or delete it" in out
    run(capsys, made, "note", NAMES[0], "later")
    assert "later" in run(capsys, made, "log")[1]


def test_part_of_a_trial_that_cannot_be_read_hides_no_other(made, capsys):
    (folder_of(made, 0) / "curve.arrow").write_bytes(b"half")
    (folder_of(made, 0) / "notes.jsonl").mkdir()
    code, out, err = run(capsys, made, "show", NAMES[0])
    assert (code, err) == (0, "")
    assert "policy   2 episodes, return 30.00" in out
    assert out.count("left out: ") == 2


def test_what_killed_processes_left_half_written_is_cleared_by_the_next(made, capsys):
    folder = made / "tiny"
    drafts = [
        folder / ".curves.arrow.0123abcd.tmp",
        folder / ".sweep.json.0123abcd.tmp",
        folder / f".tables.claim.{'0' * 32}.tmp",
        made / "..listing.json.0123abcd.tmp",
    ]
    for draft in drafts:
        draft.write_bytes(b"half")
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:7], made), "python tiny.py")
    assert run(capsys, made, "status")[0] == 0
    assert not [draft for draft in drafts if draft.exists()]


def test_what_is_written_beside_a_sweeps_tables_is_left_to_who_writes_it(made):
    with replacing(made / "tiny" / "summary.md") as draft:
        draft.write_text("whole")
        tables.log_run(made / "tiny", seconds=1.0)
        tables.Tables(made / "tiny").write()
    assert (made / "tiny" / "summary.md").read_text() == "whole"


def test_failures_name_a_trial_whose_record_is_broken_and_show_the_others(made, capsys):
    path = folder_of(made, 5) / "events.jsonl"
    path.write_text("{broken\n")
    code, out, _ = run(capsys, made, "failures", "tiny")
    assert code == 0
    assert f"left out: {path} line 1 is not an event" in out
    assert "config, 1 trial: ValueError: no window of 6 steps" in out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2]", "is not a JSON object"),
        ("null", "is not a JSON object"),
        ('{"trials": 5}', "trials is 5, not a list of texts"),
        ('{"trials": ["ab", null]}', "trials is ['ab', None], not a list of texts"),
        ('{"trials": [], "name": 5}', "name is 5, not text"),
        ('{"trials": [], "axes": []}', "axes is [], not an object"),
        ('{"trials": [], "named_levels": "x"}', "named_levels is 'x', not an object"),
        ('{"trials": [], "world_models": ["x"]}', "world_models is ['x'], not an object"),
    ],
)
@pytest.mark.parametrize(
    "command", ["status", "watch --once", "failures tiny", "prune tiny", "log"]
)
def test_description_of_a_sweep_that_is_none_is_named(made, capsys, content, said, command):
    path = made / "tiny" / "sweep.json"
    path.write_text(content)
    code, _, err = run(capsys, made, *command.split())
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.startswith(f"error: {path}")
    assert said in err


def test_sweep_that_lists_no_trials_has_none(made, capsys):
    (made / "tiny" / "sweep.json").write_text("{}")
    assert run(capsys, made, "status")[1].splitlines()[1].split()[:2] == ["tiny", "0"]
    assert run(capsys, made, "log")[0] == 0


@pytest.mark.parametrize("content", ["[1, 2]", '{"trials": 5}'])
def test_plan_names_a_description_of_its_sweep_that_is_none(made, content):
    (made / "tiny" / "sweep.json").write_text(content)
    with pytest.raises(ValueError, match=r"tiny/sweep\.json"):
        planning.make(sweep, "tiny", TRIALS, made)


def test_commands_about_records_load_neither_torch_nor_ray(made):
    program = (
        "import sys, pwmray.cli\n"
        f"for c in ('status', 'failures tiny', 'show {NAMES[0]}', 'prune'):\n"
        f"    assert pwmray.cli.main([*c.split(), '--results', {str(made)!r}]) == 0\n"
        "assert not {'ray', 'torch', 'pandas', 'mujoco'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_run_that_a_kill_cut_off_spoils_no_later_line(tmp_path):
    tables.log_run(tmp_path, seconds=1.0)
    with open(tmp_path / "runs.jsonl", "a") as file:
        file.write('{"seconds": 2')
    tables.log_run(tmp_path, seconds=3.0)
    assert (tmp_path / "runs.jsonl").read_text() == '{"seconds": 1.0}\n{"seconds": 3.0}\n'


def test_run_is_no_failure_where_another_user_keeps_the_list_of_runs(tmp_path, monkeypatch, capsys):
    def refuse(path, _):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(tables, "append_lines", refuse)
    tables.log_run(tmp_path, seconds=1.0)
    said = f"Permission denied: {tmp_path}/runs.jsonl: this run is not recorded there\n"
    assert capsys.readouterr().out == said


# A run, beside records that cannot be read.


def test_trial_whose_record_cannot_be_read_is_named_and_the_others_run(tmp_path, capsys):
    for index in (0, 1, 2):
        stand_at(tmp_path, index, Status.EVALUATED)
    broken = folder_of(tmp_path, 1) / registry.EVENTS_FILE
    broken.write_text("{broken\n")
    planned = planning.make(sweep, "tiny", TRIALS[:3], tmp_path)
    said = f"left out: {broken} line 1 is not an event"
    assert said in plan_text.as_table(planned)
    assert planned.counts() == {"done": 2}
    code = launch.run(planned, tmp_path / "data", None, "python tiny.py", Mode.OFF)
    out = capsys.readouterr().out
    assert (code, said in out, "2 of 3 trials done" in out) == (1, True, True)
    assert TRIALS[1].fingerprint in read_sweep(tmp_path / "tiny")["trials"]
    with pytest.raises(ValueError, match=r"events.jsonl line 1 is not an event"):
        planning.make(sweep, "tiny", TRIALS[1:2], tmp_path)


def test_run_during_which_the_clock_is_set_back_took_as_long_as_it_did(tmp_path, monkeypatch):
    stand_at(tmp_path, 0, Status.EVALUATED)
    made = planning.make(sweep, "tiny", TRIALS[:1], tmp_path)
    clock = SimpleNamespace(
        time=itertools.count(time.time(), -3600.0).__next__, perf_counter=time.perf_counter
    )
    monkeypatch.setattr(launch, "time", clock)
    assert launch.run(made, tmp_path / "data", None, "python tiny.py", Mode.OFF) == 0
    assert json.loads((tmp_path / "tiny" / "runs.jsonl").read_text())["seconds"] > 0
