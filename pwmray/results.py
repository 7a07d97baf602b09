"""Result tables: the Arrow schemas and files, and the only place that knows their format.

A sweep's folder holds three tables: `trials` (one row a trial), `curves` (one row a logged epoch)
and `evaluations` (one row a final evaluation episode). What a sweep varies that no column of
`trials` tells, `learner.horizon` or `size`, has a column more there, of numbers or text. Each
trial writes its own `curve` and `evaluations` under results/trials/<fingerprint>/; the sweep's
driver joins them. Every file is replaced whole, so it is readable while a sweep runs and after a
kill -9.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from pwmray.files import outlasting_stale, replacing
from pwmray.formats import OtherCodeError, explain_format, is_same_kind
from pwmray.wording import first_line

if TYPE_CHECKING:
    import pandas

FORMAT = "pwmray-results-1"
POLICY, PLANNER = "policy", "planner"  # who acted in an episode of `evaluations`
# Columns that tables of earlier versions lack; they read as null there.
ADDED = (
    "actor",
    "plan_return_mean",
    "imagined_start_value",
    "real_start_value",
    "world_model_training",
    "kernels",
    "cuda_graph",
    "code_fingerprint",
    "world_model_code",
    "policy_code",
    "dm_control_version",
)
UNKNOWN = "unknown"  # in `world_model_training`: the checkpoint does not say
TRAINED_WITH = ", settings "  # there, before their hash; left out where the checkpoint has none
TRAINED_BY = ", code "  # there, before its fingerprint, or commit; left out where none is known
TRAINED_AS = ", world model "  # there, before its kind and the hash of that one's own code

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
        # How long on what data that was trained, a hash of the settings and the code: what two that
        # are compared share. Null: scratch.
        ("world_model_training", pa.string()),
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
        # Of the next eleven, several joined by "and" where a trial was resumed under another.
        # Compiled: on, off, or "off: " (or "partly off: ") and why against what was asked.
        ("kernels", pa.string()),
        ("cuda_graph", pa.string()),  # the same of the recorded epoch; off on a CPU
        ("code_version", pa.string()),  # package version
        ("git_commit", pa.string()),  # in a changed tree with "+changes." and a hash of the package
        ("code_fingerprint", pa.string()),  # hash of what computes results, whatever the kinds
        ("world_model_code", pa.string()),  # its kind, and a hash of the code that is its own
        ("policy_code", pa.string()),  # likewise
        ("python_version", pa.string()),
        ("torch_version", pa.string()),
        ("mujoco_version", pa.string()),
        ("dm_control_version", pa.string()),
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

PREDICTIONS = pa.schema(
    [
        ("trial", pa.string()),
        ("world_model", pa.string()),  # hash of its weights and settings: trials may share one
        ("step", pa.int64()),  # how far ahead, 1 for the reward of the first action
        ("error", pa.float64()),  # root mean squared, of the symlog reward
        ("reward_sd", pa.float64()),  # of the real symlog rewards there: the error of their mean
        ("windows", pa.int64()),  # that the errors are over, the same for all models of a task
        ("agents", pa.int64()),  # that acted in them, each equally often
        ("measured_at", pa.timestamp("ms", "UTC")),
    ]
)
PREDICTIONS_FOLDER = "predictions"  # in a sweep's: a file for each task

SCHEMAS = {"trials": TRIALS, "curves": CURVE, "evaluations": EVALUATIONS}
NUMBERS = {pa.int64(), pa.float64(), pa.null()}  # that join as numbers; the null is of no value
NULL = {pa.null()}
SWEEP = "sweep"  # the column that tells joined sweeps apart; and sweep.json marks a sweep's folder


class Frames(NamedTuple):
    """The tables of Results as pandas DataFrames."""

    trials: "pandas.DataFrame"
    curves: "pandas.DataFrame"
    evaluations: "pandas.DataFrame"
    predictions: "pandas.DataFrame"


@dataclass(frozen=True)
class Results:
    """The tables of a sweep or of several; docs/results.md says what their columns mean.

    Each has the column `sweep` (string) first, then

    * `trials`, one row a trial: the columns of TRIALS, then one more for each setting that a sweep
      varies and TRIALS does not tell, `learner.horizon` or `size`: numbers or text, null in sweeps
      that do not vary it;
    * `curves`, one row a logged epoch: the columns of CURVE;
    * `evaluations`, one row an episode of a final evaluation: the columns of EVALUATIONS;
    * `predictions`, one row a step that a world model was asked to look ahead: the columns of
      PREDICTIONS, and no rows before `pwmray predict`.

    `sweep` and `trial` join them. Only trials with the status EVALUATED have a final return; a
    trial that two sweeps share stands in both.
    """

    trials: pa.Table
    curves: pa.Table
    evaluations: pa.Table
    predictions: pa.Table

    def to_pandas(self) -> Frames:
        """Return the tables as DataFrames: null becomes NaN or None."""
        return Frames(**{name: table.to_pandas() for name, table in vars(self).items()})


def load(root: str | Path) -> Results:
    """Read the tables of a results folder's sweeps, or of the one sweep in the folder `root`.

    A sweep that has written nothing yet adds no rows. Raises ValueError where `root` is no such
    folder, and for a file that is broken.
    """
    folders = _list_sweeps(Path(root))
    parts = {name: [_read_part(folder, name) for folder in folders] for name in SCHEMAS}
    parts[PREDICTIONS_FOLDER] = [_of_sweep(folder, read_predictions(folder)) for folder in folders]
    return Results(**{name: _join(of_sweeps) for name, of_sweeps in parts.items()})


def read_predictions(folder: Path) -> pa.Table:
    """Return what was measured of a sweep's world models, the tasks in order of their names."""
    paths = sorted((folder / PREDICTIONS_FOLDER).glob("*.arrow"))
    return _join([empty(PREDICTIONS), *(read_table(path, PREDICTIONS) for path in paths)])


def _list_sweeps(root: Path) -> list[Path]:
    if not root.is_dir():
        raise ValueError(f"there is no results folder {str(root)!r}")
    if (root / f"{SWEEP}.json").is_file():
        return [root]
    folders = sorted(path.parent for path in root.glob(f"*/{SWEEP}.json"))
    if not folders:
        raise ValueError(f"no sweep in {str(root)!r}: neither it nor a folder in it has sweep.json")
    return folders


def _read_part(folder: Path, name: str) -> pa.Table:
    path, schema = folder / f"{name}.arrow", SCHEMAS[name]
    return _of_sweep(folder, read_table(path, schema) if path.is_file() else empty(schema))


def _of_sweep(folder: Path, table: pa.Table) -> pa.Table:
    """Return the table with the sweep's name in the first column."""
    names = pa.repeat(folder.resolve().name, len(table))
    return table.replace_schema_metadata().add_column(0, SWEEP, names)


def _join(parts: Sequence[pa.Table]) -> pa.Table:
    """Put tables one below the other; a column of unlike types is one of numbers, or of text."""
    types: dict[str, set[pa.DataType]] = {}
    for part in parts:
        for field in part.schema:
            types.setdefault(field.name, set()).add(field.type)
    texts = {name for name, some in types.items() if len(some - NUMBERS) and len(some - NULL) > 1}
    return pa.concat_tables([_as_text(part, texts) for part in parts], promote_options="permissive")


def _as_text(table: pa.Table, names: Container[str]) -> pa.Table:
    fields = [f.with_type(pa.string()) if f.name in names else f for f in table.schema]
    return table.cast(pa.schema(fields))


def write_table(path: Path, table: pa.Table) -> None:
    """Replace the Arrow file at `path` by `table`, in one record batch."""
    schema = table.schema.with_metadata({"format": FORMAT})
    with (
        replacing(path) as draft,
        open(draft, "wb") as sink,  # Arrow's own does not say why a file cannot be closed
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_table(table.combine_chunks())


def write_rows(path: Path, rows: Iterable[dict], schema: pa.Schema) -> None:
    """Replace the Arrow file at `path` by `rows`; a column that a row lacks is null there.

    Raises ValueError for what a row has and no column takes: a learner's new metric would be lost.
    """
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    if others := [name for name in names if name not in schema.names]:
        raise ValueError(
            f"{path} has no column for {', '.join(others)}; the columns of tables are in {__name__}"
        )
    write_table(path, pa.Table.from_pylist(rows, schema=schema))


def empty(schema: pa.Schema) -> pa.Table:
    """Return a table without rows; Arrow's own way loads pandas, which takes a quarter second."""
    return pa.Table.from_batches([], schema=schema)


@outlasting_stale
def read_table(
    path: Path, schema: pa.Schema | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return the table at `path`, or some of its `columns`, which alone are then read.

    With `schema` every column of it is there, of its type: those of ADDED as null where an earlier
    version wrote the file. Raises ValueError naming a file that is broken, of another format, or
    that lacks a column; OtherCodeError for one of another version.
    """
    try:
        with pa.OSFile(str(path), "rb") as source:
            table = _read(source, columns)
        table.validate(full=True)  # a changed byte must not become a wild pointer
        table.schema.names  # noqa: B018 - decoded here, where a changed byte is told of
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if getattr(error, "errno", None) is not None:  # of the system: no such file, no permission
            raise
        raise ValueError(f"{path} is not a complete Arrow file ({first_line(error)})") from error
    found = (table.schema.metadata or {}).get(b"format", b"none").decode(errors="replace")
    if found != FORMAT:
        kind = OtherCodeError if is_same_kind(found, FORMAT) else ValueError
        raise kind(f"{path} cannot be read: {explain_format(found, FORMAT)}")
    if schema is None:
        _check_columns(path, table.column_names, columns or ())
    if schema is None or table.schema.equals(schema):
        return table
    return _as_schema(path, table, [f for f in schema if columns is None or f.name in columns])


def _read(source: pa.NativeFile, columns: Sequence[str] | None) -> pa.Table:
    if columns is None:  # at once: piece by piece, the file of a trial takes twice as long
        return pa.ipc.open_file(source.read_buffer()).read_all()
    names = pa.ipc.open_file(source).schema.names
    places = [place for place, name in enumerate(names) if name in columns]
    chosen = pa.ipc.IpcReadOptions(included_fields=places)
    return pa.ipc.open_file(source, options=chosen).read_all()


def _as_schema(path: Path, table: pa.Table, fields: Sequence[pa.Field]) -> pa.Table:
    """Return the table with all of `fields`, in their types; its other columns stay."""
    _check_columns(path, [*table.column_names, *ADDED], [field.name for field in fields])
    for index, field in enumerate(fields):
        if field.name not in table.column_names:
            table = table.add_column(index, field, pa.nulls(len(table), field.type))
        elif table.schema.field(field.name).type != field.type:
            place = table.column_names.index(field.name)
            table = table.set_column(place, field, _cast(path, table[field.name], field))
    return table


def _check_columns(path: Path, known: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in known]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}")


def _cast(path: Path, column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    try:
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise ValueError(
            f"{path}: column {field.name} is of {column.type}, not {field.type} "
            f"({first_line(error)})"
        ) from error
