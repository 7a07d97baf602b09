"""Reading a run back from the file that W&B wrote."""

import json
from typing import Any, NamedTuple

from pwmray.tracking.wandb_file import read_records


class RunFile(NamedTuple):
    """What a file says of its run."""

    id: str
    project: str
    group: str
    name: str
    tags: list[str]
    config: dict[str, Any]
    is_resume: bool
    metrics: dict[str, str]  # by a metric's name or pattern: its x axis
    history: list[dict[str, Any]]
    summary: dict[str, Any]


def read_run_file(path):
    """Return what a `.wandb` file says; raise ValueError for one that cannot be read."""
    runs, history, summary, metrics = [], [], {}, {}
    for record in read_records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            runs.append(record.run)
        elif kind == "history":
            history.append(_values(record.history.item))
        elif kind == "summary":
            summary |= _values(record.summary.update)
        elif kind == "metric":
            name = record.metric.name or record.metric.glob_name
            metrics[name] = record.metric.step_metric
    if len(runs) != 1:
        raise ValueError(f"{path} holds {len(runs)} runs; it should hold one")
    run = runs[0]
    return RunFile(
        id=run.run_id,
        project=run.project,
        group=run.run_group,
        name=run.display_name,
        tags=list(run.tags),
        config=_values(run.config.update),
        is_resume=run.resume,
        metrics=metrics,
        history=history,
        summary=summary,
    )


def _values(items):
    """Return the items of a record by their names, those of nested ones joined by dots."""
    return {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}
