"""A store back into TD-MPC2's chunks, and what else is done with a store."""

import contextlib
import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from pwmray import cli
from pwmray.commands import data_info
from pwmray.data.collected import collected_path
from pwmray.data.exporting import export_stores
from pwmray.data.inventory import DataFile, verify_file
from pwmray.data.manifest import Manifest, TaskFile
from pwmray.data.recipe import CollectionRecipe
from pwmray.data.sources import current_fingerprint, describe_source, find_data
from pwmray.data.store import BrokenDataError, StoreDraft, open_store, write_store
from pwmray.pickles import load_pickled
from pwmray.registry import claim
from pwmray.tasks import TASKS
from tests import tiny
from tests.chunks import (
    CARTPOLE,
    PENDULUM_EPISODES,
    REACHER,
    REACHER_EPISODES,
    TASKS_BY_CHUNK,
    chunk_tensors,
    import_and_die,
    import_command,
    no_progress,
    run_import,
    write_chunks,
)


@pytest.fixture
def source(tmp_path):
    return write_chunks(tmp_path / "chunks", TASKS_BY_CHUNK)


# Export


def test_exported_import_holds_the_same_episodes(source, tmp_path):
    run_import(source, tmp_path)
    stores = [open_store(path) for path in sorted((tmp_path / "mt30").glob("*.arrow"))]
    assert export_stores(stores, tmp_path / "out", no_progress) == ["chunk_0.pt"]
    chunk = load_pickled(tmp_path / "out" / "chunk_0.pt", trust=False)
    assert vars(chunk)["_batch_size"] == (8, 501)
    exported = chunk._tensordict
    original = chunk_tensors([task for chunk in TASKS_BY_CHUNK for task in chunk])
    order = PENDULUM_EPISODES + REACHER_EPISODES
    for name, tensor in original.items():
        np.testing.assert_array_equal(exported[name], tensor[order])


@pytest.mark.parametrize("chunk_episodes", [3, 8192])
def test_imported_export_of_collected_data_is_equal_to_it(tmp_path, monkeypatch, chunk_episodes):
    monkeypatch.setattr("pwmray.data.exporting._CHUNK_EPISODES", chunk_episodes)
    paths = [
        write_collected(tmp_path, "cartpole-swingup", CARTPOLE, 4),
        write_collected(tmp_path, "reacher-easy", REACHER, 5),
    ]
    names = export_stores([open_store(path) for path in paths], tmp_path / "out", no_progress)
    assert len(names) == -(-9 // chunk_episodes)
    run_import(tmp_path / "out", tmp_path / "again")
    for path, name in zip(paths, ("cartpole-swingup", "reacher-easy"), strict=True):
        before, after = open_store(path), open_store(tmp_path / "again" / "mt30" / f"{name}.arrow")
        for column in ("obs", "action", "reward", "episode_lengths"):
            old, new = getattr(before, column), getattr(after, column)
            assert old.tobytes() == new.tobytes()
        assert after.fingerprint == before.fingerprint  # what acted and how it was made, too


def write_collected(data_dir, task, index, num_episodes):
    """Write a file as `pwmray data collect` does, of made-up episodes."""
    tensors = chunk_tensors([index] * num_episodes)
    widths = {"obs": 6 if index == REACHER else 5, "action": 2 if index == REACHER else 1}
    obs, action = (
        np.ascontiguousarray(tensors[name][..., :width].reshape(-1, width))
        for name, width in widths.items()
    )
    path = data_dir / "collected" / f"{task}-0123456789ab.arrow"
    reward = tensors["reward"].numpy().reshape(-1)
    lengths, behaviours = [501] * num_episodes, ["uniform"] * num_episodes
    write_store(path, task, obs, action, reward, lengths, behaviours, {})
    return path


@pytest.mark.parametrize(
    ("seeds", "recipe"), [((1, 1), {"seed": 1}), ((1, 2), {"parts": [{"seed": 1}, {"seed": 2}]})]
)
def test_export_of_several_files_of_a_task_tells_each_recipe_once(tmp_path, seeds, recipe):
    stores, rows = [], np.zeros((501, 6), np.float32)
    for place, seed in enumerate(seeds):
        path = tmp_path / f"{place}.arrow"
        columns = rows, rows[:, :2].copy(), np.full(501, place, np.float32)
        write_store(path, "reacher-easy", *columns, [501], [f"actor-{place}"], {"seed": seed})
        stores.append(open_store(path))
    export_stores(stores, tmp_path / "out", no_progress)
    run_import(tmp_path / "out", tmp_path)
    again = open_store(tmp_path / "mt30" / "reacher-easy.arrow")
    assert again.recipe == recipe
    assert tuple(again.behaviours) == ("actor-0", "actor-1")
    assert again.reward[[500, 1001]].tolist() == [0.0, 1.0]


def export_collected(tmp_path):
    path = write_collected(tmp_path, "reacher-easy", REACHER, 4)
    export_stores([open_store(path)], tmp_path / "out", no_progress)
    return tmp_path / "out"


def test_info_says_that_what_was_imported_is_an_export(tmp_path, capsys):
    out = export_collected(tmp_path)
    assert import_command(out, tmp_path) == 0
    said = capsys.readouterr().out
    assert "origin       chunks with a chunks.json, as `pwmray data export` writes" in said
    assert cli.main(["data", "info", "reacher-easy", "--data", str(tmp_path / "data")]) == 0
    said = capsys.readouterr().out
    assert "uniform" in said
    assert "td-mpc2" not in said


def test_what_acted_in_an_export_that_does_not_say_is_unknown(tmp_path):
    out = export_collected(tmp_path)
    (out / "chunks.json").write_text('{"layout": "mt30", "chunks": ["chunk_0.pt"]}')
    run_import(out, tmp_path)
    assert set(open_store(tmp_path / "mt30" / "reacher-easy.arrow").behaviours) == {"unknown"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"chunks": ["chunk_0.pt"], "behaviours": {"chunk_0.pt": ["x"]}}', "acted in 1 episode "),
        ('{"chunks": ["chunk_0.pt"], "recipes": {"reacher-easy": 1}}', "chunks.json is damaged"),
        ("[]", "chunks.json is damaged"),
    ],
)
def test_damaged_list_of_an_export_is_named(tmp_path, capsys, content, message):
    out = export_collected(tmp_path)
    (out / "chunks.json").write_text(content)
    assert import_command(out, tmp_path) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_export_removes_what_a_killed_one_left_of_the_same_folder(tmp_path):
    left, others = tmp_path / ".out.0123abcd.tmp", tmp_path / ".out2.0123abcd.tmp"
    for folder in (left, others):
        folder.mkdir()
        (folder / "chunk_0.pt").write_bytes(b"half")
    export_collected(tmp_path)
    assert not left.exists()
    assert others.exists()
    assert not (tmp_path / ".out.claim").exists()


def test_second_export_into_a_folder_is_refused_before_its_work(tmp_path):
    held = claim.acquire(tmp_path / ".out.claim")
    with pytest.raises(ValueError, match=f"process {os.getpid()} on .* exports to .*out"):
        export_collected(tmp_path)
    held.release()


def test_export_for_which_there_is_no_room_writes_nothing(source, tmp_path, monkeypatch):
    run_import(source, tmp_path)
    stores = [open_store(tmp_path / "mt30" / "reacher-easy.arrow")]
    needed = 4 * 501 * (4 * (24 + 6 + 1) + 8)
    monkeypatch.setattr("pwmray.room.free_bytes", lambda folder: needed - 1)
    with pytest.raises(ValueError, match=r"no room for the export: 0\.3 MB needed, .* has 0\.3 MB"):
        export_stores(stores, tmp_path / "out", no_progress)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("pwmray.room.free_bytes", lambda folder: needed)
    assert export_stores(stores, tmp_path / "deep" / "out", no_progress) == ["chunk_0.pt"]


def test_disk_that_is_full_in_mid_export_is_one_line_and_nothing_stays(tmp_path, monkeypatch):
    def fail(path, tensors):
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0")

    monkeypatch.setattr("pwmray.data.exporting.save_tensor_dict", fail)
    stores = [open_store(write_collected(tmp_path, "reacher-easy", REACHER, 4))]
    with pytest.raises(ValueError, match=f"cannot write to {tmp_path}: is its disk full"):
        export_stores(stores, tmp_path / "out", no_progress)
    assert [path.name for path in tmp_path.iterdir()] == ["collected"]


def test_progress_of_an_export_counts_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("pwmray.data.exporting._CHUNK_EPISODES", 1)
    stores, said = [open_store(write_collected(tmp_path, "reacher-easy", REACHER, 4))], []
    export_stores(stores, tmp_path / "out", lambda what, done, total: said.append((done, total)))
    assert said == [(number * 501, 4 * 501) for number in range(4)]


def test_export_says_that_its_folder_was_made_meanwhile(tmp_path):
    path = write_collected(tmp_path, "reacher-easy", REACHER, 4)

    def make(what, done, total):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "file").touch()

    with pytest.raises(ValueError, match="out was made meanwhile"):
        export_stores([open_store(path)], tmp_path / "out", make)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["collected", "out"]


def test_export_command_takes_the_imported_dataset_or_what_was_collected(source, tmp_path, capsys):
    data = tmp_path / "data"
    write_collected(data, "reacher-easy", REACHER, 2)
    assert cli.main(["data", "export", str(tmp_path / "a"), "--data", str(data)]) == 0
    assert "2 episodes in chunk_0.pt" in capsys.readouterr().out
    run_import(source, data)
    assert cli.main(["data", "export", str(tmp_path / "b"), "--data", str(data)]) == 0
    assert "8 episodes in chunk_0.pt" in capsys.readouterr().out


@pytest.mark.parametrize(
    "order", ["OUT FILE --data DIR", "OUT --data DIR FILE", "--data DIR OUT FILE"]
)
def test_export_takes_files_before_and_behind_options(tmp_path, capsys, order):
    path = write_collected(tmp_path, "reacher-easy", REACHER, 2)
    places = {"OUT": tmp_path / "out", "FILE": path, "DIR": tmp_path / "elsewhere"}
    given = [str(places.get(word, word)) for word in order.split()]
    assert cli.main(["data", "export", *given]) == 0
    assert "2 episodes in chunk_0.pt" in capsys.readouterr().out


def test_export_refuses_what_it_cannot_write_and_leaves_nothing(source, tmp_path, capsys):
    run_import(source, tmp_path / "data")
    arguments = ["data", "export", "--data", str(tmp_path / "data")]
    assert cli.main([*arguments, str(source)]) == 2
    assert "chunks exists; name a folder that does not" in capsys.readouterr().err
    assert cli.main([*arguments, str(tmp_path / "out"), "--tasks", "cheetah-run"]) == 2
    assert "has no file of cheetah-run" in capsys.readouterr().err
    rows = np.zeros((3, 6), np.float32)
    write_store(
        tmp_path / "short.arrow", "reacher-easy", rows, rows[:, :2].copy(), rows[:, 0].copy(),
        [3], ["uniform"], {},
    )  # fmt: skip
    assert cli.main([*arguments, str(tmp_path / "out"), str(tmp_path / "short.arrow")]) == 2
    assert "episodes of [3] rows; chunks have one length: 501 (mt30)" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chunks", "data", "short.arrow"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FILE", "--tasks", "reacher-easy"], "--tasks selects among the data's files; leave it"),
        (["FILE", "--source", "mt30"], "--source selects among the data's files; leave it out"),
        (["FILE", "FILE"], "reacher-easy-0123456789ab.arrow is given twice"),
        (["FILE", "AGAIN"], "collected/reacher-easy-0123456789ab.arrow is given twice"),
    ],
)
def test_export_refuses_files_beside_what_chooses_others(tmp_path, capsys, arguments, message):
    path = write_collected(tmp_path, "reacher-easy", REACHER, 2)
    names = {"FILE": str(path), "AGAIN": f"{tmp_path}/collected/../collected/{path.name}"}
    given = [names.get(argument, argument) for argument in arguments]
    assert cli.main(["data", "export", str(tmp_path / "out"), *given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Info and verify


@pytest.mark.parametrize("named", ["collected", "DIR/collected", "DIR/collected/"])
def test_info_describes_what_was_collected_by_its_folder(source, tmp_path, capsys, named):
    path = write_collected(tmp_path, "reacher-easy", REACHER, 2)
    run_import(source, tmp_path)
    what = named.replace("DIR", str(tmp_path))
    assert cli.main(["data", "info", what, "--data", str(tmp_path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"collected    {tmp_path / 'collected'}"
    assert [line.split()[0] for line in out[1:]] == [path.name]


@pytest.mark.parametrize("named", [[], ["DIR"]])
def test_info_describes_all_data_of_a_folder_what_was_imported_first(
    source, tmp_path, capsys, named
):
    path = write_collected(tmp_path, "reacher-easy", REACHER, 2)
    run_import(source, tmp_path)
    places = [str(tmp_path) for _ in named] + ["--data", str(tmp_path)]
    assert cli.main(["data", "info", *places]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"dataset      {tmp_path / 'mt30'}"
    assert lines[-2] == f"collected    {tmp_path / 'collected'}"
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    assert lines[-1].split() == [path.name, *size.split()]
    assert cli.main(["data", "info", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"file         {path} ({size})"


def test_info_on_a_task_without_data_says_what_makes_it(tmp_path, capsys):
    folder = tmp_path / "my data"
    assert cli.main(["data", "info", "reacher-easy", "--data", str(folder)]) == 2
    assert capsys.readouterr().err == (
        f"error: no data of 'reacher-easy' in {folder}; make it with: "
        f"pwmray data collect reacher-easy --data '{folder}'\n"
    )


@pytest.mark.parametrize("name", ["mt30", "collected"])
def test_info_describes_a_folder_that_is_here_rather_than_that_of_its_name(
    name, source, tmp_path, capsys, monkeypatch
):
    write_collected(tmp_path, "reacher-easy", REACHER, 2)
    run_import(source, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "info", name, "--data", str(tmp_path / "other")]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[1] == name


OTHER_NUMBER = "note         the published mt30 has 690000 episodes"
HALF = "missing      chunk_1.pt, about 50 % of the data"
EXPORTED = "origin       chunks with a chunks.json, as `pwmray data export` writes"


@pytest.mark.parametrize(
    ("dataset", "num_tasks", "of_each", "changes", "said"),
    [
        ("mt30", 30, 23_000, {}, []),
        ("mt30", 30, 22_999, {}, [OTHER_NUMBER]),
        ("mt30", 29, 22_999, {}, []),  # chosen tasks are never all of it
        ("mt80", 30, 22_999, {}, []),  # whose number is not known
        ("mt30", 30, 22_999, {"missing": ["chunk_1.pt"]}, [HALF]),
        ("mt30", 30, 22_999, {"is_export": True}, [EXPORTED]),
    ],
)
def test_info_says_in_what_an_import_is_not_the_published_data(
    dataset, num_tasks, of_each, changes, said
):
    files = dict.fromkeys([*TASKS][:num_tasks], TaskFile(of_each, 501 * of_each, 2_500_000, "f"))
    made = Manifest(dataset, chunks={"chunk_0.pt": 1}, missing=[], tasks=files)
    lines = data_info.describe_dataset(dataclasses.replace(made, **changes), Path("data"))
    episodes = f"{num_tasks} tasks, {num_tasks * of_each} episodes"
    assert lines[2] == f"content      {episodes}, {2.5 * num_tasks} MB"
    assert lines[3 : -1 - num_tasks] == said
    assert lines[-num_tasks].split() == [
        "walker-stand",
        str(of_each),
        str(501 * of_each),
        "2.5",
        "f",
    ]


def test_info_and_verify_describe_an_import(source, tmp_path, capsys):
    assert import_command(source, tmp_path) == 0
    data = ["--data", str(tmp_path / "data")]
    capsys.readouterr()
    assert cli.main(["data", "info", "mt30", *data]) == 0
    named = capsys.readouterr().out
    assert "2 tasks, 8 episodes" in named
    assert cli.main(["data", "info", *data]) == 0
    assert capsys.readouterr().out == named
    assert cli.main(["data", "info", "reacher-easy", *data]) == 0
    assert "td-mpc2                     4" in capsys.readouterr().out
    assert cli.main(["data", "verify", *data]) == 0
    assert capsys.readouterr().out == "2 of 2 files are intact\n"


def change_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def write_other_rows(path, num_episodes=1):
    """Put a sound file of the same task in its place."""
    rows = np.zeros((num_episodes * 501, 3), np.float32)
    columns = [rows, rows[:, :1].copy(), rows[:, 0].copy()]
    lengths, behaviours = [501] * num_episodes, ["uniform"] * num_episodes
    write_store(path, "pendulum-swingup", *columns, lengths, behaviours, {})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_byte, "does not match its fingerprint"),
        (lambda path: path.unlink(), "there is no data file"),
        (lambda path: os.truncate(path, 1000), "not a complete Arrow file"),
        (
            lambda path: path.write_bytes((path.parent / "reacher-easy.arrow").read_bytes()),
            "it is of reacher-easy, not of pendulum-swingup",
        ),
        (write_other_rows, "has fingerprint "),
        (lambda path: write_other_rows(path, 4), "has fingerprint "),
    ],
)
def test_verify_names_a_broken_file_and_exits_with_1(
    source, tmp_path, monkeypatch, capsys, damage, message
):
    monkeypatch.setattr("pwmray.data.store.VERIFIED_BYTES", 0)  # as of a large one
    assert import_command(source, tmp_path) == 0
    path = tmp_path / "data" / "mt30" / "pendulum-swingup.arrow"
    damage(path)
    capsys.readouterr()
    assert cli.main(["data", "verify", "--data", str(tmp_path / "data")]) == 1
    fault, summary = capsys.readouterr().out.splitlines()
    assert fault.startswith("broken: ")
    assert str(path) in fault
    assert message in fault
    remake = f"--data {tmp_path / 'data'} --tasks pendulum-swingup --rebuild"
    assert f"pwmray data import DIR {remake} (DIR" in fault
    assert summary == "1 of 2 files are intact"


@pytest.mark.parametrize(
    ("column", "row", "is_fine"),
    [(0, 0, False), (0, 5, False), (1, 4, False), (2, 5, False), (1, 3, True), (2, 3, True)],
)
def test_verify_names_the_row_whose_values_are_not_finite(
    tmp_path, monkeypatch, column, row, is_fine
):
    monkeypatch.setattr("pwmray.data.store._CHUNK_ROWS", 2)
    monkeypatch.setattr("pwmray.data.inventory.check_name", lambda store: None)
    path, columns = tmp_path / "pendulum-swingup.arrow", [np.ones((6, k), "f4") for k in (3, 1)]
    columns.append(np.ones(6, "f4"))
    columns[column][row] = np.inf
    draft = StoreDraft(path, "pendulum-swingup", [3, 3], ["x"] * 2, {})
    draft.reserve()
    with draft.writing() as write:
        write(0, columns)
    draft.seal()
    named = f"row {row} has values that are not finite"
    with contextlib.nullcontext() if is_fine else pytest.raises(ValueError, match=named):
        verify_file(DataFile(path, None, ""))


def test_verify_goes_on_after_a_file_that_it_may_not_read(source, tmp_path, monkeypatch, capsys):
    run_import(source, tmp_path)
    change_byte(tmp_path / "mt30" / "reacher-easy.arrow")
    original = open_store

    def refuse(path, *arguments):
        if path.name == "pendulum-swingup.arrow":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *arguments)

    monkeypatch.setattr("pwmray.data.inventory.open_store", refuse)
    assert cli.main(["data", "verify", "--data", str(tmp_path)]) == 1
    first, second, summary = capsys.readouterr().out.splitlines()
    assert first.startswith("broken: the data file")
    assert second == f"broken: Permission denied: {tmp_path}/mt30/pendulum-swingup.arrow"
    assert summary == "0 of 2 files are intact"


def test_verify_names_a_collected_file_that_is_not_what_its_name_stands_for(tmp_path, capsys):
    recipe = CollectionRecipe(num_episodes=2)
    path = collected_path("reacher-easy", recipe, tmp_path)
    path.parent.mkdir()
    write_collected(tmp_path, "reacher-easy", REACHER, 2).rename(path)
    assert cli.main(["data", "verify", "--data", str(tmp_path)]) == 1
    assert f"the data file {path} holds the data that reacher-easy-" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["info", "walker-run"], "pwmray data collect walker-run --data '{}'"),
        (["verify"], "make it again with: pwmray data import DIR --data '{}' --tasks reacher-easy"),
    ],
)
def test_commands_that_are_proposed_name_a_folder_with_spaces(
    source, tmp_path, capsys, arguments, command
):
    folder = tmp_path / "my data"
    run_import(source, folder)
    change_byte(folder / "mt30" / "reacher-easy.arrow")
    cli.main(["data", *arguments, "--data", str(folder)])
    said = "".join(capsys.readouterr())
    assert command.format(folder) in said
    assert "import it with" not in said


def test_manifest_of_a_newer_version_or_changed_by_hand_is_refused(source, tmp_path, capsys):
    run_import(source, tmp_path)
    path = tmp_path / "mt30" / "manifest.json"
    manifest = path.read_text()
    path.write_text(manifest.replace("pwmray-dataset-1", "pwmray-dataset-2"))
    assert cli.main(["data", "info", "--data", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "its format is 'pwmray-dataset-2', not 'pwmray-dataset-1'; a newer pwmray" in message
    assert "import it with" not in message
    changed = json.loads(manifest)
    changed["tasks"]["reacher-easy"]["fingerprint"] = "0" * 16
    path.write_text(json.dumps(changed))
    assert cli.main(["data", "verify", "--data", str(tmp_path)]) == 2
    assert "does not match its fingerprint" in capsys.readouterr().err
    del changed["fingerprint"]
    path.write_text(json.dumps(changed))
    assert cli.main(["data", "verify", "--data", str(tmp_path)]) == 2
    assert "does not match its fingerprint" in capsys.readouterr().err


# Use


@pytest.mark.parametrize("other", ["pendulum-swingup", "reacher-easy"])
def test_imported_file_that_is_not_the_manifests_is_refused(source, tmp_path, other):
    run_import(source, tmp_path)
    path = tmp_path / "mt30" / "reacher-easy.arrow"
    rows = np.zeros((501, 3 if other != "reacher-easy" else 6), np.float32)
    actions = rows[:, : 1 if other != "reacher-easy" else 2].copy()
    write_store(path, other, rows, actions, rows[:, 0].copy(), [501], ["uniform"], {})
    with pytest.raises(BrokenDataError, match=r"(it is of pendulum|its manifest says).*--rebuild"):
        find_data("reacher-easy", CollectionRecipe(source="mt30"), tmp_path, no_environments)


def test_source_of_a_partial_import_is_described_with_what_it_lacks(source, tmp_path):
    (source / "chunk_2.pt").unlink()
    run_import(source, tmp_path, is_partial=True)
    said = describe_source(CollectionRecipe(source="mt30"), tmp_path)
    assert said.endswith("mt30; it lacks chunk_2.pt, about 25 % of the data")


def test_trial_finds_the_imported_file(source, tmp_path):
    run_import(source, tmp_path)
    recipe = CollectionRecipe(source="mt30")
    path = find_data("reacher-easy", recipe, tmp_path, make_vector=no_environments)
    assert open_store(path).num_episodes == 4


def no_environments(task, num_envs):
    raise AssertionError("must not collect")


@pytest.mark.parametrize("task", ["reacher-easy", "cheetah-run"])
def test_dataset_or_task_that_is_not_imported_is_said_with_the_command(source, tmp_path, task):
    run_import(source, tmp_path / "data", tasks=["pendulum-swingup"])
    recipe = CollectionRecipe(source="mt30")
    command = f"pwmray data import DIR --data {tmp_path / 'data'}"
    said = rf"mt30 in {tmp_path / 'data'} has no {task}; import it with: {command} \(DIR"
    with pytest.raises(ValueError, match=f"^{said}"):
        find_data(task, recipe, tmp_path / "data", no_environments)
    with pytest.raises(ValueError, match=r"mt30 is not in .*; import it with: pwmray data import"):
        find_data(task, recipe, tmp_path / "elsewhere", no_environments)


def test_imported_file_that_was_deleted_is_said_with_the_command_that_makes_it_again(
    source, tmp_path
):
    run_import(source, tmp_path, tasks=["pendulum-swingup"])
    (tmp_path / "mt30" / "pendulum-swingup.arrow").unlink()
    command = f"import DIR --data {tmp_path} --tasks pendulum-swingup --rebuild"
    with pytest.raises(ValueError, match=f"has no pendulum-swingup; import it with: .*{command}"):
        find_data("pendulum-swingup", CollectionRecipe(source="mt30"), tmp_path, no_environments)


def test_source_that_is_collected_is_described_with_its_rounds(tmp_path):
    recipe = CollectionRecipe(num_episodes=4, num_rounds=2, episodes_per_round=3)
    said = f"10 collected episodes a task in 2 rounds, in {tmp_path}"
    assert describe_source(recipe, tmp_path) == said


def test_data_that_cannot_be_read_has_no_fingerprint(tmp_path):
    (tmp_path / "mt30" / "manifest.json").mkdir(parents=True)
    recipe = CollectionRecipe(source="mt30")
    assert current_fingerprint("reacher-easy", recipe, tmp_path) is None


def test_unfinished_import_is_not_taken_for_a_store(source, tmp_path):
    import_and_die(source, tmp_path, num_calls=12)
    with pytest.raises(ValueError, match="mt30 is not in"):
        find_data("reacher-easy", CollectionRecipe(source="mt30"), tmp_path, no_environments)


def test_source_is_no_part_of_what_is_collected():
    mt30, collected = CollectionRecipe(source="mt30"), CollectionRecipe()
    assert mt30.fingerprint("reacher-easy") == collected.fingerprint("reacher-easy")


def test_sweep_whose_dataset_is_not_imported_stops_before_it_starts(tmp_path, capsys):
    sweep = dataclasses.replace(tiny.sweep, hold={"data.source": "mt30"})
    places = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    with pytest.raises(SystemExit, match="2"):
        sweep.main(["--scale", "tiny", "--limit", "1", *places])
    message = capsys.readouterr().err.splitlines()[-1]
    assert "mt30 is not in" in message
    assert f"pwmray data import DIR --data {tmp_path / 'data'}" in message
    assert list(tmp_path.iterdir()) == []
