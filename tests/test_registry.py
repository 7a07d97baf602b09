import json

import pytest

from pwmray import registry
from pwmray.registry import EVENTS_FILE, LEGAL_MOVES, NOTES_FILE, Status

MOVES = [(before, after) for before in LEGAL_MOVES for after in Status]
LEGAL = [move for move in MOVES if move[1] in LEGAL_MOVES[move[0]]]
ILLEGAL = [move for move in MOVES if move[1] not in LEGAL_MOVES[move[0]]]


def event(status, time="2026-01-02T03:04:05.678+00:00", **fields):
    return json.dumps({"time": time, "status": status, **fields}) + "\n"


def write_events(folder, *lines):
    """Write the events file as it is, without the registry."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EVENTS_FILE).write_text("".join(lines))


def stand_at(folder, status):
    lines = [] if status is None else [event(status)]
    write_events(folder, *lines)


def test_moves_are_defined_for_every_status():
    assert set(LEGAL_MOVES) == {None, *Status}


@pytest.mark.parametrize(("before", "after"), LEGAL)
def test_legal_move_is_recorded(tmp_path, before, after):
    stand_at(tmp_path, before)
    registry.record(tmp_path, after)
    assert registry.read(tmp_path).status is after


@pytest.mark.parametrize(("before", "after"), ILLEGAL)
def test_illegal_move_is_a_bug_and_leaves_the_record_alone(tmp_path, before, after):
    stand_at(tmp_path, before)
    with pytest.raises(AssertionError, match=f"{before} -> {after} is not a legal move"):
        registry.record(tmp_path, after)
    assert registry.read(tmp_path).status is before


@pytest.mark.parametrize(
    "life",
    [
        "PENDING QUEUED RUNNING COMPLETED EVALUATED",
        "PENDING QUEUED RUNNING FAILED QUEUED RUNNING COMPLETED EVALUATED",
        "PENDING QUEUED RUNNING RUNNING CANCELLED QUEUED RUNNING COMPLETED EVALUATED",
        "PENDING QUEUED RUNNING COMPLETED QUEUED RUNNING COMPLETED EVALUATED",
    ],
)
def test_life_of_a_trial_is_recorded_in_order(tmp_path, life):
    for status in life.split():
        registry.record(tmp_path / "trial", Status(status))
    assert [e["status"] for e in registry.read(tmp_path / "trial").events] == life.split()


def test_trial_never_asked_for_has_no_record(tmp_path):
    record = registry.read(tmp_path / "absent")
    assert record.status is None
    assert record.last("reason") is None
    assert record.time_of(Status.RUNNING) is None
    assert not (tmp_path / "absent").exists()


def test_record_gives_the_last_value_of_each_field(tmp_path):
    registry.record(tmp_path, Status.PENDING, config={"seed": 1})
    registry.record(tmp_path, Status.QUEUED)
    registry.record(tmp_path, Status.RUNNING, epoch=0, host="a")
    registry.record(tmp_path, Status.RUNNING, epoch=7)

    record = registry.read(tmp_path)

    assert record.last("config") == {"seed": 1}
    assert (record.last("epoch"), record.last("host")) == (7, "a")
    assert record.count(Status.RUNNING) == 2


def test_time_is_that_of_the_last_such_event(tmp_path):
    write_events(
        tmp_path,
        event("PENDING", "2026-01-01T00:00:00.000+00:00"),
        event("RUNNING", "2026-01-01T01:00:00.000+00:00"),
        event("FAILED", "2026-01-01T02:00:00.000+00:00"),
        event("RUNNING", "2026-01-01T03:00:00.000+00:00"),
        event("QUEUED", "2026-01-01T04:00:00.000+00:00"),
    )

    time = registry.read(tmp_path).time_of(Status.RUNNING, Status.FAILED)

    assert time.isoformat() == "2026-01-01T03:00:00+00:00"


def test_recorded_time_has_a_zone(tmp_path):
    registry.record(tmp_path, Status.PENDING)
    assert registry.read(tmp_path).time_of(Status.PENDING).utcoffset().total_seconds() == 0


@pytest.mark.parametrize("cut", ['{"time": "2026', "{", '{"status": "RUNNING", "reason": "\\u00'])
def test_last_line_cut_by_a_kill_is_left_out(tmp_path, cut):
    write_events(tmp_path, event("PENDING"), event("QUEUED"), cut)
    assert registry.read(tmp_path).status is Status.QUEUED


def test_cut_line_is_removed_before_the_next_event(tmp_path):
    write_events(tmp_path, event("PENDING"), event("QUEUED"), '{"time": "2026')

    registry.record(tmp_path, Status.RUNNING, epoch=3)

    lines = (tmp_path / EVENTS_FILE).read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["PENDING", "QUEUED", "RUNNING"]


def test_whole_last_line_without_its_newline_counts_as_cut(tmp_path):
    write_events(tmp_path, event("PENDING"), event("QUEUED").rstrip("\n"))

    registry.record(tmp_path, Status.QUEUED)

    assert registry.read(tmp_path).status is Status.QUEUED
    assert len(registry.read(tmp_path).events) == 2


def test_only_line_cut_by_a_kill_leaves_an_empty_record(tmp_path):
    write_events(tmp_path, '{"time": "2026')
    assert registry.read(tmp_path).status is None
    registry.record(tmp_path, Status.PENDING)
    assert registry.read(tmp_path).status is Status.PENDING


def test_broken_line_in_the_middle_is_named(tmp_path):
    write_events(tmp_path, event("PENDING"), "{broken\n", event("QUEUED"))
    with pytest.raises(ValueError, match=r"events\.jsonl line 2 is not an event"):
        registry.read(tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1]", "no JSON object"),
        ("null", "no JSON object"),
        ('{"status": "PENDING"}', "time is None, not text"),
        ('{"time": 5}', "time is 5, not text"),
        ('{"time": "x"}', "Invalid isoformat string: 'x'"),
        ('{"time": "2026-01-02T03:04:05"}', "the time '2026-01-02T03:04:05' has no zone"),
        (event("NONSENSE").strip(), "unknown status 'NONSENSE'; valid: PENDING, QUEUED, RUNNING"),
        (event(["PENDING"]).strip(), r"unknown status \['PENDING'\]; valid: PENDING"),
    ],
)
def test_line_that_is_json_but_no_event_is_named(tmp_path, line, said):
    write_events(tmp_path, event("PENDING"), f"{line}\n")
    with pytest.raises(ValueError, match=rf"events\.jsonl line 2 is not an event: {said}"):
        registry.read(tmp_path)


def test_line_that_is_no_note_is_named(tmp_path):
    (tmp_path / NOTES_FILE).write_text('{"time": "2026-01-02T03:04:05+00:00", "user": "me"}\n')
    notes, (why,) = registry.read_notes(tmp_path)
    assert notes == []
    assert why.startswith(f"{tmp_path / NOTES_FILE} line 1 is not an event: note is None")


def test_text_that_no_file_can_hold_is_read_with_question_marks(tmp_path):
    registry.record(tmp_path, Status.PENDING, reason="no file a\udcffb", smile="\U0001f600")
    record = registry.read(tmp_path)
    assert (record.last("reason"), record.last("smile")) == ("no file a?b", "\U0001f600")


def test_trial_has_one_folder_whichever_sweep_asks(tmp_path):
    assert registry.trial_folder(tmp_path, "abc") == tmp_path / "trials" / "abc"


def test_trial_that_nobody_claims_runs_nowhere(tmp_path):
    assert registry.running_elsewhere(tmp_path) is None


def test_remark_leaves_the_trial_where_it_stands(tmp_path):
    registry.record(tmp_path, Status.PENDING)
    registry.remark(tmp_path, pruned=["checkpoint.pt"])
    record = registry.read(tmp_path)
    assert (record.status, record.last("pruned")) == (Status.PENDING, ["checkpoint.pt"])
    assert (record.count(Status.PENDING), record.all("pruned")) == (1, [["checkpoint.pt"]])
    registry.record(tmp_path, Status.QUEUED)
    assert registry.read(tmp_path).status is Status.QUEUED


def test_note_is_no_event(tmp_path):
    registry.record(tmp_path, Status.PENDING)
    registry.add_note(tmp_path, "looks odd", "a person")
    assert [event["status"] for event in registry.read(tmp_path).events] == ["PENDING"]
    (note,), broken = registry.read_notes(tmp_path)
    assert broken == []
    assert (note["note"], note["user"]) == ("looks odd", "a person")
