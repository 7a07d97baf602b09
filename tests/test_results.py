"""Reading result tables: one sweep or several, for notebooks; and what docs/results.md says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pwmray import results
from pwmray.results import PREDICTIONS, SCHEMAS, TRIALS, read_table, write_rows, write_table
from tests.documents import ROOT, run_blocks
from tests.squares import write_square

RETURNS = {"reacher-easy": {"baseline": (300.0, 310.0), "fullflow": (500.0, 510.0)}}
DOCUMENT = ROOT / "docs" / "results.md"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_square(tmp_path / "one", RETURNS)
    write_square(tmp_path / "two", {"walker-stand": {"baseline": (400.0,)}})
    return tmp_path


def set_column(path: Path, name: str, values: pa.Array) -> None:
    """Replace a column of a table, or append it."""
    table = read_table(path)
    table = table.drop_columns([name]) if name in table.column_names else table
    write_table(path, table.append_column(name, values))


def test_sweeps_of_a_results_folder_are_joined(root):
    found = results.load(root)
    assert found.trials["sweep"].to_pylist() == ["one"] * 4 + ["two"]
    assert found.curves["sweep"].to_pylist() == ["one"] * 8 + ["two"] * 2
    assert found.evaluations["sweep"].to_pylist() == ["one"] * 8 + ["two"] * 2


def test_folder_of_a_sweep_is_that_sweep_alone(root):
    found = results.load(str(root / "two"))
    assert found.trials.select(["sweep", "task", "return_mean"]).to_pylist() == [
        {"sweep": "two", "task": "walker-stand", "return_mean": 400.0}
    ]


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_schema_is_the_documented_one_after_the_sweep(root, name):
    assert getattr(results.load(root), name).schema.names == ["sweep", *SCHEMAS[name].names]


def test_what_one_sweep_alone_varies_is_null_in_the_other(root):
    set_column(root / "one" / "trials.arrow", "size", pa.array(["5", "5", "48", "48"]))
    assert results.load(root).trials["size"].to_pylist() == ["5", "5", "48", "48", None]


@pytest.mark.parametrize(
    ("ours", "theirs", "joined"),
    [
        (pa.array([1, 2, 3, 4]), pa.array(["laptop"]), ["1", "2", "3", "4", "laptop"]),
        (pa.array([1, 2, 3, 4]), pa.array([0.5]), [1.0, 2.0, 3.0, 4.0, 0.5]),
        (pa.array([True] * 4), pa.array([2]), ["true"] * 4 + ["2"]),
        (pa.nulls(4), pa.array([2]), [None] * 4 + [2]),
    ],
)
def test_columns_of_unlike_types_join(root, ours, theirs, joined):
    set_column(root / "one" / "trials.arrow", "size", ours)
    set_column(root / "two" / "trials.arrow", "size", theirs)
    assert results.load(root).trials["size"].to_pylist() == joined


def test_sweep_that_has_written_nothing_yet_adds_no_rows(root):
    (root / "new").mkdir()
    (root / "new" / "sweep.json").write_text("{}")
    assert results.load(root).trials.num_rows == 5
    alone = results.load(root / "new")
    assert [alone.trials.num_rows, alone.evaluations.num_rows] == [0, 0]
    assert alone.curves.schema.names[:2] == ["sweep", "trial"]


def test_frames_have_the_rows_of_the_tables(root):
    frames = results.load(root).to_pandas()
    assert frames.trials.groupby("sweep")["return_mean"].mean().to_dict() == {
        "one": 405.0,
        "two": 400.0,
    }
    assert [len(frames.curves), len(frames.evaluations)] == [10, 10]


def test_predictions_of_all_tasks_and_sweeps_are_joined(root):
    names = ["sweep", *PREDICTIONS.names]
    assert list(results.load(root).to_pandas().predictions.columns) == names
    for sweep, task in (("two", "walker-stand"), ("one", "walker-stand"), ("one", "cup-catch")):
        (root / sweep / "predictions").mkdir(exist_ok=True)
        row = {"trial": task, "step": 1, "error": 0.5}
        write_rows(root / sweep / "predictions" / f"{task}.arrow", [row], PREDICTIONS)
    found = results.load(root).predictions
    assert found.schema.names == names
    assert found.select(["sweep", "trial"]).to_pylist() == [
        {"sweep": "one", "trial": "cup-catch"},
        {"sweep": "one", "trial": "walker-stand"},
        {"sweep": "two", "trial": "walker-stand"},
    ]


# Bad input.


def test_root_that_is_no_results_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(ValueError, match=f"no results folder '{path}'"):
            results.load(path)
    with pytest.raises(ValueError, match=f"no sweep in '{tmp_path}'"):
        results.load(tmp_path)


def test_columns_are_read_alone(root):
    path = root / "one" / "trials.arrow"
    assert read_table(path, TRIALS, ["seed", "task"]).column_names == ["task", "seed"]


def test_column_of_another_type_is_taken_where_its_values_fit(root):
    path = root / "one" / "trials.arrow"
    set_column(path, "seed", pa.array(["1", "2", "1", "2"]))
    assert read_table(path, TRIALS)["seed"].to_pylist() == [1, 2, 1, 2]
    set_column(path, "seed", pa.array(["1", "2", "one", "2"]))
    with pytest.raises(ValueError, match=r"trials\.arrow: column seed is of string, not int64"):
        results.load(root)


def test_missing_column_is_named_with_the_file(root):
    path = root / "two" / "curves.arrow"
    write_table(path, read_table(path).drop_columns(["epoch", "actor_loss"]))
    with pytest.raises(ValueError, match=r"two/curves\.arrow lacks the columns epoch, actor_loss"):
        results.load(root)
    with pytest.raises(ValueError, match=r"two/curves\.arrow lacks the columns epoch$"):
        read_table(path, columns=("trial", "epoch"))


@pytest.mark.parametrize("kept", [0, 5, 200, 0.5, 0.99])
def test_cut_file_is_named_however_short(root, kept):
    path = root / "one" / "trials.arrow"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"one/trials\.arrow is not a complete Arrow file"):
        results.load(root)


def test_file_of_another_program_is_named(root):
    with pa.OSFile(str(root / "one" / "curves.arrow"), "wb") as sink:
        table = results.load(root / "two").curves
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(ValueError, match=r"curves\.arrow cannot be read: its format is 'none'"):
        results.load(root)


def test_reading_imports_neither_torch_nor_ray(root):
    code = f"import sys; from pwmray import results; results.load({str(root)!r}); "
    code += "print(sorted({'torch', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


# The document.


def documented_schema(name: str) -> list[tuple[str, str]]:
    section = DOCUMENT.read_text().partition(f"\n### {name}\n")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", section, re.M)
    assert all(meaning.strip() for _, _, meaning in rows)
    return [(column, kind) for column, kind, _ in rows]


@pytest.mark.parametrize(("name", "schema"), [*SCHEMAS.items(), ("predictions", PREDICTIONS)])
def test_document_has_every_column_with_its_type(name, schema):
    assert documented_schema(name) == [(f.name, str(f.type)) for f in schema]


def test_metric_that_no_column_takes_is_named(tmp_path):
    row = {"trial": "a", "epoch": 1, "policy_entropy": 0.5}
    with pytest.raises(ValueError, match="has no column for policy_entropy; the columns of tables"):
        results.write_rows(tmp_path / "curve.arrow", [row], results.CURVE)
    assert not list(tmp_path.iterdir())


def test_examples_of_the_document_print_what_it_shows(monkeypatch):
    monkeypatch.chdir(ROOT)
    space = run_blocks(DOCUMENT)
    assert json.loads(space["found"].trials["config"][0].as_py())["learner"]["horizon"] == 5
