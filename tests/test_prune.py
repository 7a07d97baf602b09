"""`pwmray prune`: what it frees, and what it leaves alone."""

import errno
import os
import re
import time
from pathlib import Path

import pytest

from pwmray import plan as planning
from pwmray import registry
from pwmray.commands import prune as prune_command
from pwmray.registry import (
    BEST_FILE,
    CHECKPOINT_FILE,
    CLAIM_FILE,
    Status,
    claim,
    sweep_folders,
)
from tests import small_disk
from tests.claims import do_not_watch, leave_claim, refuse_claims
from tests.records import NAMES, TRIALS, folder_of, make_results, run
from tests.tiny import sweep


@pytest.fixture
def made(tmp_path):
    return make_results(tmp_path / "results")


def test_prune_without_yes_changes_nothing(made, capsys):
    before = sorted(made.rglob("*"))
    code, out, _ = run(capsys, made, "prune", "tiny", "--keep", "best")
    assert code == 0
    assert out.splitlines()[0] == f"{NAMES[0]}: checkpoint.pt, 2.0 MB"
    assert out.splitlines()[-1] == "8.0 MB would be freed; --yes does it"
    assert sorted(made.rglob("*")) == before


def test_prune_frees_what_the_rule_does_not_keep_and_records_it(made, capsys):
    _, out, _ = run(capsys, made, "prune", "--keep", "best", "--yes")
    assert out.splitlines()[-1] == "8.0 MB freed"
    left = {i: (folder_of(made, i) / CHECKPOINT_FILE).exists() for i in range(7)}
    # What is not evaluated needs its last checkpoint to go on.
    assert left == {0: False, 1: False, 2: False, 3: True, 4: False, 5: True, 6: True}
    record = registry.read(folder_of(made, 0))
    assert record.status is Status.EVALUATED
    assert (record.last("pruned"), record.last("freed_bytes")) == ([CHECKPOINT_FILE], 2_000_000)
    assert (folder_of(made, 0) / BEST_FILE).exists()
    again = run(capsys, made, "prune", "--keep", "best", "--yes")[1]
    assert again == "0.0 MB freed\n"


def test_prune_reads_the_names_of_trials_once(made, capsys, monkeypatch):
    reads = []
    names_in = sweep_folders.names_in
    monkeypatch.setattr(sweep_folders, "names_in", lambda s: reads.append(s) or names_in(s))
    out = run(capsys, made, "prune", "--keep", "best")[1]
    assert [line.partition(":")[0] for line in out.splitlines()[:4]] == sorted(
        (NAMES[i] for i in (0, 1, 2, 4)), key=lambda name: TRIALS[NAMES.index(name)].fingerprint
    )
    assert len(reads) == 1


def test_prune_keeps_both_by_default_and_clears_what_kills_left(made, capsys):
    draft = folder_of(made, 0) / ".checkpoint.pt.0123abcd.tmp"
    draft.write_bytes(bytes(500_000))
    _, out, _ = run(capsys, made, "prune", "--yes")
    assert out.splitlines() == [f"{NAMES[0]}: {draft.name}, 0.5 MB", "0.5 MB freed"]
    assert not draft.exists()


def test_prune_leaves_out_what_processes_take_claims_with_and_what_is_gone_by_then(
    made, capsys, monkeypatch
):
    folder = folder_of(made, 0)
    taking = folder / f".{CLAIM_FILE}.0123abcd.tmp"
    taking.write_text("{}")
    gone = folder / ".curve.arrow.0123abcd.tmp"
    gone.write_bytes(bytes(1000))
    stats_of = prune_command._stats_of

    def lose(files):
        gone.unlink(missing_ok=True)
        return stats_of(files)

    monkeypatch.setattr(prune_command, "_stats_of", lose)
    code, out, _ = run(capsys, made, "prune", "--keep", "best", "--yes")
    assert code == 0
    assert taking.exists()
    assert taking.name not in out
    assert registry.read(folder).last("pruned") is not None


def test_prune_clears_what_killed_pretrainings_left(made, capsys):
    folder = made / "pretrained" / "0123456789abcdef"
    folder.mkdir(parents=True)
    draft = folder / ".resume.ckpt.0123abcd.tmp"
    draft.write_bytes(bytes(500_000))
    said = f"pretrained/{folder.name}: {draft.name}, 0.5 MB"
    with claim.acquire(folder / "claim"):
        assert said not in run(capsys, made, "prune")[1]
        assert said not in run(capsys, made, "prune", "--yes")[1]
    assert said in run(capsys, made, "prune")[1]
    assert draft.exists()
    assert said not in run(capsys, made, "prune", "tiny", "--yes")[1]
    assert said in run(capsys, made, "prune", "--yes")[1]
    assert not draft.exists()


def test_prune_leaves_what_a_killed_pretraining_left_until_it_is_old_enough(made, capsys):
    folder = made / "pretrained" / "0123456789abcdef"
    folder.mkdir(parents=True)
    draft = folder / ".resume.ckpt.0123abcd.tmp"
    draft.write_bytes(bytes(500_000))
    two_hours_ago = time.time() - 2 * 3600
    os.utime(draft, (two_hours_ago, two_hours_ago))
    assert folder.name not in run(capsys, made, "prune", "--older-than", "3h", "--yes")[1]
    assert draft.exists()
    assert folder.name in run(capsys, made, "prune", "--older-than", "1h", "--yes")[1]
    assert not draft.exists()


def test_prune_does_not_name_a_pretraining_that_left_nothing(made, capsys):
    folder = made / "pretrained" / "0123456789abcdef"
    folder.mkdir(parents=True)
    for name in ("best.ckpt", "last.ckpt"):
        (folder / name).write_bytes(bytes(1000))
    assert folder.name not in run(capsys, made, "prune")[1]


def test_prune_leaves_a_running_trial_alone(made, capsys):
    with claim.acquire(folder_of(made, 0) / CLAIM_FILE):
        run(capsys, made, "prune", "--keep", "none", "--yes")
    assert (folder_of(made, 0) / CHECKPOINT_FILE).exists()
    assert not (folder_of(made, 1) / CHECKPOINT_FILE).exists()


def test_prune_frees_what_a_lost_machine_left(made, capsys, monkeypatch):
    do_not_watch(monkeypatch)
    pretrained = made / "pretrained" / "0123456789abcdef"
    pretrained.mkdir(parents=True)
    drafts = [folder / ".checkpoint.pt.0123abcd.tmp" for folder in (folder_of(made, 0), pretrained)]
    for draft, name in zip(drafts, (CLAIM_FILE, "claim"), strict=True):
        draft.write_bytes(bytes(500_000))
        leave_claim(draft.parent / name, 4711, host="n9", age=600)
    assert "seems dead" not in run(capsys, made, "prune")[1]  # only who deletes watches them
    _, out, _ = run(capsys, made, "prune", "--yes")
    assert out.count("seems dead") == 2
    assert out.splitlines()[-1] == "1.0 MB freed"
    assert not any(draft.exists() for draft in drafts)


def test_prune_counts_a_file_with_two_names_once_it_has_none(made, capsys):
    folder = folder_of(made, 0)
    (folder / BEST_FILE).unlink()
    os.link(folder / CHECKPOINT_FILE, folder / BEST_FILE)
    out = {keep: run(capsys, made, "prune", "--keep", keep)[1] for keep in ("best", "none")}
    assert f"{NAMES[0]}: checkpoint.pt, 0.0 MB" in out["best"]
    assert f"{NAMES[0]}: checkpoint.pt, best.pt, 2.0 MB" in out["none"]


def test_prune_frees_only_what_is_old_enough(made, capsys):
    assert "0.0 MB would" in run(capsys, made, "prune", "--keep", "none", "--older-than", "1d")[1]
    path = folder_of(made, 1) / "events.jsonl"
    path.write_text(re.sub(r'"time": "\d{4}', '"time": "2020', path.read_text()))
    _, out, _ = run(capsys, made, "prune", "--keep", "none", "--older-than", "30d")
    assert [line.partition(":")[0] for line in out.splitlines()[:-1]] == [NAMES[1]]


def test_prune_frees_nothing_that_it_may_not_record_and_goes_on(made, capsys, monkeypatch):
    mine, theirs = folder_of(made, 0), folder_of(made, 1)
    may = os.access
    is_mine = lambda path, mode: theirs not in Path(path).parents and may(path, mode)  # noqa: E731
    monkeypatch.setattr(os, "access", is_mine)
    code, out, _ = run(capsys, made, "prune", "tiny", "--keep", "none", "--yes")
    assert code == 0
    assert f"left out: Permission denied: {theirs}/events.jsonl" in out
    assert (theirs / CHECKPOINT_FILE).exists()
    assert not (mine / CHECKPOINT_FILE).exists()


def test_prune_that_was_let_free_nothing_of_what_it_should_has_failed(made, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    dry, *_ = run(capsys, made, "prune", "tiny", "--keep", "none")
    code, out, _ = run(capsys, made, "prune", "tiny", "--keep", "none", "--yes")
    assert (dry, code, out.endswith("0.0 MB freed\n")) == (0, 2, True)


@pytest.fixture
def full_disk(tmp_path):
    disk = tmp_path / "disk"
    small_disk.mount(disk, 32_000_000)
    results = make_results(disk / "results")
    for folder in (folder_of(results, index) for index in (1, 2, 4)):
        (folder / BEST_FILE).unlink()
        os.link(folder / CHECKPOINT_FILE, folder / BEST_FILE)  # of which one name frees nothing
    for index in (0, 5):  # one of them failed: only a claim on it lets prune free anything
        (folder_of(results, index) / ".checkpoint.pt.0123abcd.tmp").write_bytes(bytes(500_000))
    small_disk.fill(disk)
    yield results
    small_disk.unmount(disk)


def test_prune_frees_room_on_a_disk_that_takes_not_even_a_claim(full_disk, capsys):
    with pytest.raises(OSError, match="No space left"):
        claim.acquire(folder_of(full_disk, 0) / CLAIM_FILE)
    code, out, err = run(capsys, full_disk, "prune", "--keep", "best", "--yes")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "3.0 MB freed"
    record = registry.read(folder_of(full_disk, 0))
    assert record.last("pruned") == [CHECKPOINT_FILE, ".checkpoint.pt.0123abcd.tmp"]
    assert sorted(path.name for path in folder_of(full_disk, 0).glob("*.pt")) == [BEST_FILE]
    assert not list(full_disk.rglob("*.tmp"))
    assert not list(full_disk.rglob(CLAIM_FILE))
    assert registry.read(folder_of(full_disk, 1)).last("pruned") == [CHECKPOINT_FILE]


def test_prune_that_finds_no_room_for_a_claim_names_the_place(full_disk, capsys):
    (folder_of(full_disk, 0) / ".checkpoint.pt.0123abcd.tmp").unlink()
    small_disk.fill(full_disk)
    code, out, err = run(capsys, full_disk, "prune", "--yes")
    assert (code, err) == (2, "")
    failed = folder_of(full_disk, 5)
    assert out == f"left out: No space left on device: {failed}/{CLAIM_FILE}\n0.0 MB freed\n"


@pytest.mark.parametrize(("number", "says"), [(errno.EDQUOT, "12.0"), (errno.EIO, "0.0")])
def test_prune_deletes_without_a_claim_on_a_full_disk_alone_and_counts_that(
    number, says, made, capsys, monkeypatch
):
    before = sorted(made.rglob("*.pt"))
    refuse_claims(monkeypatch, number=number)
    code, out, _ = run(capsys, made, "prune", "tiny", "--keep", "none", "--yes")
    assert out.splitlines()[-1] == f"{says} MB freed"
    assert out.count(os.strerror(number)) == 7
    is_freed = sorted(made.rglob("*.pt")) != before
    assert (code == 0, is_freed) == (number == errno.EDQUOT, number == errno.EDQUOT)


def test_prune_whose_rule_frees_nothing_says_what_another_would(made, capsys):
    out = run(capsys, made, "prune")[1]
    assert out == "0.0 MB would be freed; --keep none would free 15.0 MB\n"


def test_pruned_trial_is_still_done(made, capsys):
    run(capsys, made, "prune", "--keep", "none", "--yes")
    planned = planning.make(sweep, "tiny", TRIALS[:7], made)
    assert [trial.state for trial in planned.trials][:3] == ["done"] * 3


def test_prune_frees_nothing_of_a_trial_whose_record_is_broken_and_of_the_others_what_it_may(
    made, capsys
):
    path = folder_of(made, 0) / "events.jsonl"
    path.write_text("{broken\n")
    left_out = f"left out: {path} line 1 is not an event"
    code, out, err = run(capsys, made, "prune", "--keep", "none")
    assert (code, err, left_out in out) == (0, "", True)
    code, out, err = run(capsys, made, "prune", "--keep", "none", "--yes")
    assert (code, err, left_out in out) == (0, "", True)
    assert (folder_of(made, 0) / CHECKPOINT_FILE).exists()
    assert (folder_of(made, 0) / BEST_FILE).exists()
    assert not (folder_of(made, 1) / CHECKPOINT_FILE).exists()
