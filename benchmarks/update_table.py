"""The rows of `update.py`: their columns, their file and how they are printed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import workload
from timing import Times

from pwmray import results

SCHEMA = pa.schema(
    [
        ("time", pa.string()),  # UTC, ISO 8601
        ("size", pa.string()),
        ("variant", pa.string()),
        ("methodology", pa.string()),  # frozen, finetuned, pretrain
        ("batch_size", pa.int64()),  # windows of the model, starts of the policy
        ("wm_iterations", pa.int64()),  # world-model steps of an update
        ("matmul", pa.string()),  # learner.matmul
        ("compiled", pa.bool_()),  # whether that was asked for
        ("kernels", pa.string()),  # on, off, or why not although it was
        ("cuda_graph", pa.string()),
        ("num_threads", pa.int64()),  # of a copy
        ("num_copies", pa.int64()),
        ("repeat", pa.int64()),
        ("ms", pa.float64()),  # these six, and kernels and cuda_graph: see timing.Times
        ("updates_per_second", pa.float64()),
        ("first_ms", pa.float64()),
        ("peak_mib", pa.float64()),
        ("reference_ms", pa.float64()),
        ("agreement", pa.float64()),  # before 74a9c15 a ratio of two norms
        ("ratio", pa.float64()),  # how many times as fast as the plain one
        ("gflop", pa.float64()),  # of one update, counted from the shapes
        ("gflop_per_second", pa.float64()),  # of all copies
        ("peak_gflop_per_second", pa.float64()),  # of a large product in `matmul`
        ("share_of_peak", pa.float64()),
        ("device", pa.string()),
        ("gpu", pa.string()),
        ("driver", pa.string()),
        ("cuda_version", pa.string()),
        ("cpu", pa.string()),
        ("torch_version", pa.string()),
        ("python_version", pa.string()),
        ("git_commit", pa.string()),  # with "+changes" where files differ from it
    ]
)
_LATER = ("kernels", "cuda_graph")  # columns that rows of earlier versions lack: null
Row = dict[str, Any]

_STEPS = {workload.FROZEN: 0, workload.PRETRAIN: 1}


def make_row(case: workload.Case, times: Times, about: Mapping[str, Any]) -> Row:
    """Return the row of a case; `about` is what all rows of a run share."""
    rate = case.gflop * times.updates_per_second
    return {
        **about,
        **times._asdict(),
        "size": case.size,
        "variant": case.variant,
        "methodology": case.methodology,
        "batch_size": case.batch_size,
        "wm_iterations": _STEPS.get(case.methodology, case.wm_iterations),
        "matmul": case.matmul,
        "ratio": times.reference_ms and times.reference_ms / times.ms,
        "gflop": case.gflop,
        "gflop_per_second": rate,
        "share_of_peak": rate / about["peak_gflop_per_second"],
    }


def append(path: Path, *rows: Row) -> None:
    """Add rows to the file at `path`; raise ValueError for one with other columns."""
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    if path.exists():
        before = results.read_table(path).replace_schema_metadata()
        if before.schema not in (SCHEMA, pa.schema([f for f in SCHEMA if f.name not in _LATER])):
            raise ValueError(f"{path} has other columns than this version's; name another --out")
        table = pa.concat_tables([table.slice(0, 0), before, table], promote_options="default")
    results.write_table(path, table)


def heading(about: Mapping[str, Any], peaks: Mapping[str, float]) -> Iterator[str]:
    """Yield the lines above the table; `peaks` are the GFLOP/s of large products."""
    driver = f", driver {about['driver']}, CUDA {about['cuda_version']}" if about["gpu"] else ""
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in peaks.items())
    compiled = ", compiled" if about["compiled"] else ""
    yield (
        f"{about['gpu'] or about['cpu']}{driver}, torch {about['torch_version']}, "
        f"commit {about['git_commit']}"
    )
    yield (
        f"{about['num_copies']} x {about['num_threads']} threads, {about['matmul']}{compiled}; "
        f"GFLOP/s of a large product: {rates}"
    )
    yield (
        f"{'size':<7}{'variant':<11}{'methodology':<12}{'batch':>5}{'steps':>6}{'ms':>9}"
        f"{'plain':>9}{'ratio':>6}{'updates/s':>10}{'GFLOP':>8}{'GFLOP/s':>9}{'peak':>6}"
        f"{'MiB':>8}{'agreement':>10}"
    )


def as_line(row: Row) -> str:
    """Return a row of the table, and below it what was timed without although it was asked for."""
    plain = f"{'-':>9}{'-':>6}"
    if row["reference_ms"] is not None:
        plain = f"{row['reference_ms']:>9.1f}{row['ratio']:>6.2f}"
    agreement = "-" if row["agreement"] is None else f"{row['agreement']:.1e}"
    without = [f"  {name} {row[name]}" for name in _LATER if "off: " in row[name]]
    return "\n".join([_as_line(row, plain, agreement), *without])


def _as_line(row: Row, plain: str, agreement: str) -> str:
    return (
        f"{row['size']:<7}{row['variant']:<11}{row['methodology']:<12}{row['batch_size']:>5}"
        f"{row['wm_iterations']:>6}{row['ms']:>9.1f}{plain}{row['updates_per_second']:>10.2f}"
        f"{row['gflop']:>8.1f}{row['gflop_per_second']:>9.1f}{row['share_of_peak']:>6.0%}"
        f"{row['peak_mib']:>8.0f}{agreement:>10}"
    )
