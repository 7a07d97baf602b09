"""Trials that W&B and TensorBoard are given, and what a file for TensorBoard holds."""

import io

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

from pwmray import plan, registry, results, tables
from pwmray.registry import Status
from pwmray.tensorboard_file import EVENT_FILES
from tests.tiny import sweep

TRIALS = sweep.trials("tiny")[:2]
ROWS = [{"epoch": 2 * i, "seconds": 3.0 * i, "return_mean": 10.0 * i} for i in (1, 2)]
BEGUN = 1_700_000_000.0


def leave_trial(results_dir, trial=TRIALS[0], rows=ROWS, return_mean=30.0):
    """Leave what an evaluated trial leaves; without a return one that was stopped."""
    folder = registry.trial_folder(results_dir, trial.fingerprint)
    registry.record(folder, Status.PENDING, config=trial.to_dict())
    registry.record(folder, Status.QUEUED)
    registry.record(folder, Status.RUNNING, epoch=0)
    curve = [{"trial": folder.name, **row} for row in rows]
    results.write_rows(folder / "curve.arrow", curve, results.CURVE)
    if return_mean is None:
        registry.record(folder, Status.CANCELLED, reason="stopped")
        return folder
    registry.record(folder, Status.COMPLETED, train_seconds=1.0, evaluation_seconds=1.0)
    row = {"trial": folder.name, "actor": "policy", "episode": 0, "seed": 1, "length": 500}
    evaluations = [{**row, "return": return_mean}]
    results.write_rows(folder / "evaluations.arrow", evaluations, results.EVALUATIONS)
    registry.record(folder, Status.EVALUATED, return_mean=return_mean)
    return folder


def leave_sweep(results_dir):
    folders = [leave_trial(results_dir, trial) for trial in TRIALS]
    tables.open_sweep(plan.make(sweep, "tiny", TRIALS, results_dir), "python tiny.py")
    return folders


def read_events(path):
    """Return the events of a file, checked and taken apart by others' code."""
    data, events = path.read_bytes(), []
    rebuilt = io.BytesIO()
    writer = RecordWriter.__new__(RecordWriter)
    writer._writer = rebuilt
    position = 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 8], "little")
        record = data[position + 12 : position + 12 + length]
        writer.write(record)  # with the checksums that there should be
        events.append(Event.FromString(record))
        position += length + 16
    assert rebuilt.getvalue() == data
    return events


def scalars(folder):
    """Return (step, tag, value) of all scalars in the folder's files."""
    events = [event for path in sorted(folder.glob(EVENT_FILES)) for event in read_events(path)]
    return [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
