"""Result tables: the Arrow schemas and files, and the only place that knows their format.

A sweep's folder holds three tables: `trials` (one row a trial), `curves` (one row a logged epoch)
and `evaluations` (one row a final evaluation episode). What a sweep varies that no column of
`trials` tells, `learner.horizon` or `size`, has a column more there, of numbers or text. Each
trial writes its own `curve` and `evaluations` under results/trials/<fingerprint>/; the sweep's
driver joins them. Every file is replaced whole, so it is readable while a sweep runs and after a
kill -9.
"""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from pwmray.files import replacing
from pwmray.formats import explain_format

FORMAT = "pwmray-results-1"
POLICY, PLANNER = "policy", "planner"  # who acted in an episode of `evaluations`
# Columns that tables of earlier versions lack; they read as null there.
ADDED = ("actor", "plan_return_mean", "imagined_start_value", "real_start_value")

TRIALS = pa.schema(
    [
        ("trial", pa.string()),  # fingerprint of the config, 16 hex digits
        ("status", pa.string()),  # see pwmray.registry.Status; only EVALUATED enters a verdict
        ("reason", pa.string()),  # why it failed or was cancelled; null otherwise
        ("task", pa.string()),
        ("variant", pa.string()),  # baseline, flowpolicy, flowwm, fullflow: derived
        ("world_model", pa.string()),
        ("policy", pa.string()),
        ("epochs", pa.int64()),  # asked for
        ("epochs_reached", pa.int64()),
        ("seed", pa.int64()),
        ("methodology", pa.string()),
        ("fidelity", pa.string()),
        ("world_model_from", pa.string()),  # "scratch" or a checkpoint's id
        ("world_model_parameters", pa.int64()),
        ("policy_parameters", pa.int64()),
        ("critic_parameters", pa.int64()),
        ("velocity_calls", pa.int64()),  # network calls of one model step plus one action
        ("data_fingerprint", pa.string()),
        ("return_mean", pa.float64()),  # final return over the evaluation episodes, [0, 1000]
        ("return_sd", pa.float64()),  # over episodes, ddof 1
        # Discounted symlog rewards from the evaluation's starts, the mean over its episodes: as
        # the learner imagines them and as they came. Far apart, the model is being exploited.
        ("imagined_start_value", pa.float64()),
        ("real_start_value", pa.float64()),
        ("plan_return_mean", pa.float64()),  # over the planner's episodes; null without planning
        ("best_return", pa.float64()),  # best return of the curve, for progress only
        ("evaluation_episodes", pa.int64()),
        ("evaluation_protocol", pa.string()),  # seeds, action repeat, deterministic policy
        ("train_seconds", pa.float64()),
        ("evaluation_seconds", pa.float64()),
        ("attempts", pa.int64()),  # RUNNING events: 1 if never interrupted
        ("created_at", pa.timestamp("ms", "UTC")),
        ("started_at", pa.timestamp("ms", "UTC")),
        ("ended_at", pa.timestamp("ms", "UTC")),
        ("host", pa.string()),
        ("pid", pa.int64()),
        ("device", pa.string()),  # cpu, or the GPU's name
        ("slurm_job_id", pa.string()),
        ("code_version", pa.string()),  # package version
        ("git_commit", pa.string()),  # with "+changes" when the tree was not clean
        ("python_version", pa.string()),
        ("torch_version", pa.string()),
        ("mujoco_version", pa.string()),
        ("ray_version", pa.string()),
        ("config", pa.string()),  # the whole TrialConfig as JSON
    ]
)

CURVE = pa.schema(
    [
        ("trial", pa.string()),
        ("epoch", pa.int64()),  # epochs done when the row was written
        ("seconds", pa.float64()),  # training time so far
        ("return_mean", pa.float64()),  # over the evaluation episodes during training; may be null
        ("return_min", pa.float64()),
        ("return_max", pa.float64()),
        ("imagined_start_value", pa.float64()),  # see TRIALS
        ("real_start_value", pa.float64()),
        ("world_model_loss", pa.float64()),
        ("consistency_loss", pa.float64()),
        ("reward_loss", pa.float64()),
        ("matching_loss", pa.float64()),  # flow matching; null for a world model without it
        ("actor_loss", pa.float64()),
        ("critic_loss", pa.float64()),
        ("imagined_return", pa.float64()),  # mean discounted model return with terminal value
        ("world_model_gradient_norm", pa.float64()),
        ("actor_gradient_norm", pa.float64()),
        ("critic_gradient_norm", pa.float64()),
    ]
)

EVALUATIONS = pa.schema(
    [
        ("trial", pa.string()),
        ("actor", pa.string()),  # policy, whose rows are the result, or planner; null: policy
        ("episode", pa.int64()),
        ("seed", pa.int64()),  # the environment's seed of this episode
        ("return", pa.float64()),  # summed reward, [0, 1000]
        ("length", pa.int64()),
    ]
)

PRETRAINING = pa.schema(
    [
        ("iteration", pa.int64()),
        ("episodes", pa.string()),  # training (mean since the last row) or held_out
        ("seconds", pa.float64()),  # training time so far; null in rows of earlier versions
        ("world_model_loss", pa.float64()),
        ("consistency_loss", pa.float64()),
        ("reward_loss", pa.float64()),
        ("matching_loss", pa.float64()),
    ]
)

SCHEMAS = {"trials": TRIALS, "curves": CURVE, "evaluations": EVALUATIONS}


def write_table(path: Path, table: pa.Table) -> None:
    """Replace the Arrow file at `path` by `table`, in one record batch."""
    schema = table.schema.with_metadata({"format": FORMAT})
    with (
        replacing(path) as draft,
        pa.OSFile(str(draft), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_table(table.combine_chunks())


def write_rows(path: Path, rows: Iterable[dict], schema: pa.Schema) -> None:
    """Replace the Arrow file at `path` by `rows`; a column that a row lacks is null there."""
    write_table(path, pa.Table.from_pylist(list(rows), schema=schema))


def read_table(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """Return the table at `path`, with all of ADDED that `schema` has.

    Raises ValueError naming a file that is broken or of another format.
    """
    try:
        with pa.OSFile(str(path), "rb") as source:
            table = pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a complete Arrow file ({error})") from error
    found = (table.schema.metadata or {}).get(b"format", b"none").decode()
    if found != FORMAT:
        raise ValueError(f"{path} cannot be read: {explain_format(found, FORMAT)}")
    return table if schema is None else _with_added(table, schema)


def _with_added(table: pa.Table, schema: pa.Schema) -> pa.Table:
    for index, field in enumerate(schema):
        if field.name in ADDED and field.name not in table.column_names:
            table = table.add_column(index, field, pa.nulls(len(table), field.type))
    return table
