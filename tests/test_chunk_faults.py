"""Chunks that cannot be imported are named, and leave no store."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from pwmray.pickles import load_pickled
from pwmray.records import RecordCheck
from tests.chunks import (
    PENDULUM,
    TASKS_BY_CHUNK,
    change_chunk,
    chunk_tensors,
    import_command,
    run_import,
    write_chunks,
)

PICKLES = Path(__file__).parent / "data" / "tensordict"


@pytest.fixture
def source(tmp_path):
    return write_chunks(tmp_path / "chunks", TASKS_BY_CHUNK)


# Bad input


def set_nan(name, place):
    return lambda tensors: tensors[name].__setitem__(place, torch.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_nan("reward", (1, 9)), "row 9 of episode 1 has a reward that is not finite"),
        (set_nan("action", (0, 500, 0)), "row 500 of episode 0 has an action that is not finite"),
        (set_nan("obs", (2, 0, 1)), "row 0 of episode 2 has an observation that is not finite"),
        (
            lambda tensors: tensors["obs"].__setitem__((0, 3, 3), 1.0),
            "row 3 of episode 0 has more observations than pendulum-swingup",
        ),
        (
            lambda tensors: tensors.update(task=tensors["task"].to(torch.complex64)),
            "task is of torch.complex64; it must be whole numbers",
        ),
        (
            lambda tensors: tensors.update(task=tensors["task"] > 4),
            "task is of torch.bool; it must be whole numbers",
        ),
        (
            lambda tensors: tensors.update(obs=tensors["obs"].to_sparse()),
            "obs is torch.sparse_coo; it must be an ordinary tensor",
        ),
        (
            lambda tensors: tensors.update(reward=tensors["reward"].to("meta")),
            "reward is a tensor without data; it must be an ordinary tensor",
        ),
        (
            lambda tensors: tensors.update({k: v[:0] for k, v in tensors.items()}),
            "chunk_1.pt has no episodes",
        ),
        (lambda tensors: tensors["task"].fill_(30), "episode 0 is of task 30; the tasks of mt30"),
        (lambda tensors: tensors["task"][2].fill_(-1), "episode 2 is of task -1"),
        (lambda tensors: tensors["task"][1, 7:].fill_(2), "episode 1 is of more than one task"),
        (lambda tensors: tensors.update(task=tensors["task"].float()), "must be whole numbers"),
        (
            lambda tensors: tensors.pop("reward"),
            "it has no tensor reward; it holds obs (Tensor), action (Tensor)",
        ),
        (
            lambda tensors: tensors.update({k: v[:, :500] for k, v in tensors.items()}),
            "tasks of shape (3, 500), not [episodes, rows]; mt30 has 501, mt80 has 101 rows",
        ),
        (
            lambda tensors: tensors.update(task=tensors["task"][:, 0].clone()),
            "tasks of shape (3,), not [episodes, rows]",
        ),
        (
            lambda tensors: tensors.update({k: v[:, :101] for k, v in tensors.items()}),
            "chunk_1.pt is of mt80, but chunk_0.pt beside it is of mt30",
        ),
        (
            lambda tensors: tensors.update(obs=tensors["obs"][..., :23]),
            "obs is [3, 501, 23] of torch.float32; it must be [3, 501, 24] or wider",
        ),
        (
            lambda tensors: tensors.update(reward=tensors["reward"][..., None]),
            "reward is [3, 501, 1] of torch.float32; it must be [3, 501] or wider",
        ),
        (lambda tensors: tensors.update(reward=tensors["reward"].double()), "of torch.float64"),
    ],
)
def test_chunk_with_a_fault_is_named_and_makes_no_store(source, tmp_path, capsys, change, message):
    change_chunk(source, 1, change)
    assert import_command(source, tmp_path) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert "chunk_1.pt" in said
    assert message in said
    assert list((tmp_path / "data").glob("mt30/manifest.json")) == []


def test_tensors_that_numpy_does_not_take_as_they_are_are_read(source, tmp_path):
    tensors = chunk_tensors(TASKS_BY_CHUNK[0])
    tensors["obs"].requires_grad_()
    negated = torch.complex(tensors["reward"], -tensors["reward"]).conj()
    torch.save({**tensors, "reward": negated.imag}, source / "chunk_0.pt")
    assert run_import(source, tmp_path).num_episodes == 8


def test_chunks_without_an_episode_of_mt30s_tasks_are_refused(tmp_path, capsys):
    source = write_chunks(tmp_path / "chunks", [[30]] * 20, layout="mt80")
    assert import_command(source, tmp_path) == 2
    assert "the chunks have no episode of any of MT30's tasks" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["obs", "action", "reward", "task"])
def test_one_flipped_bit_of_a_chunk_is_noticed(source, tmp_path, capsys, name):
    path = source / "chunk_2.pt"
    tensor = chunk_tensors(TASKS_BY_CHUNK[2], first_episode=5)[name]
    content = bytearray(path.read_bytes())
    content[content.index(tensor.numpy().tobytes())] ^= 1  # the least of the first number's bits
    path.write_bytes(content)
    assert import_command(source, tmp_path) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert str(path) in message
    assert name == "task" or "its record chunk_2/data/" in message
    assert list((tmp_path / "data").glob("mt30/manifest.json")) == []


def test_chunk_that_is_another_ones_copy_is_refused(source, tmp_path, capsys):
    shutil.copyfile(source / "chunk_1.pt", source / "chunk_3.pt")
    assert import_command(source, tmp_path) == 2
    message = capsys.readouterr().err
    assert "chunk_3.pt has the same content as chunk_1.pt beside it" in message


def test_chunk_that_is_cut_while_it_is_read_is_named(source):
    path = source / "chunk_0.pt"
    with RecordCheck(path) as check:
        check.advance(1, 3)
        os.truncate(path, path.stat().st_size // 3)
        with pytest.raises(ValueError, match=r"chunk_0\.pt is damaged: its record .*/data/"):
            check.advance(3, 3)


def test_truncated_chunk_is_named(source, tmp_path, capsys):
    path = source / "chunk_2.pt"
    os.truncate(path, path.stat().st_size // 2)
    assert import_command(source, tmp_path) == 2
    assert "chunk_2.pt is not a readable file of torch, or is cut short" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("options", [(), ("--trust",)])
def test_chunk_in_torchs_earlier_format_is_named_as_one(source, tmp_path, capsys, options):
    tensors = chunk_tensors(TASKS_BY_CHUNK[0])
    torch.save(tensors, source / "chunk_0.pt", _use_new_zipfile_serialization=False)
    assert import_command(source, tmp_path, *options) == 2
    assert "chunk_0.pt is in torch's format from before 1.6; save it" in capsys.readouterr().err


class Foreign:
    """A class that a chunk might bring along."""


def test_chunk_that_needs_more_than_tensors_is_refused_until_trusted(source, tmp_path, capsys):
    torch.save({**chunk_tensors(TASKS_BY_CHUNK[0]), "more": Foreign()}, source / "chunk_0.pt")
    assert import_command(source, tmp_path) == 2
    refusal = capsys.readouterr().err
    assert "chunk_0.pt is refused: it needs more than tensors" in refusal
    assert "pass --trust" in refusal
    assert import_command(source, tmp_path, "--trust") == 0


def test_missing_chunks_are_named_with_their_share_and_partial_goes_without(
    source, tmp_path, capsys
):
    (source / "chunk_1.pt").unlink()
    (source / "chunk_2.pt").unlink()
    assert import_command(source, tmp_path) == 2
    expected = "lacks chunk_1.pt, chunk_2.pt: 2 of 4 chunks, about 50 % of the data"
    assert expected in capsys.readouterr().err
    assert import_command(source, tmp_path, "--partial") == 0
    assert "missing      chunk_1.pt, chunk_2.pt, about 50 %" in capsys.readouterr().out


def test_store_of_other_chunks_is_not_added_to(source, tmp_path):
    run_import(source, tmp_path, tasks=["reacher-easy"])
    other = write_chunks(tmp_path / "other", [[PENDULUM]] * 4)
    with pytest.raises(ValueError, match="was imported from other chunks"):
        run_import(other, tmp_path)
    assert list(run_import(other, tmp_path, rebuild=True).tasks) == ["pendulum-swingup"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "cheetah-run"], "the chunks have no episode of cheetah-run"),
        (["--tasks", "chetah-run"], "did you mean 'cheetah-run'"),
        (["--tasks", "cheetah-run,cheetah-run"], "'cheetah-run' is given twice"),
    ],
)
def test_wrong_task_is_named(source, tmp_path, capsys, options, message):
    assert import_command(source, tmp_path, *options) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "there is no folder"),
        (lambda folder: folder.mkdir(), "has no chunk_0.pt, chunk_1.pt"),
        (lambda folder: write_chunks(folder, [[PENDULUM]] * 5), "chunk_4.pt is not one of the 4"),
    ],
)
def test_wrong_folder_is_named(tmp_path, capsys, prepare, message):
    prepare(tmp_path / "chunks")
    assert import_command(tmp_path / "chunks", tmp_path) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("version", ["0.2.1", "0.15.3"])
def test_what_tensordict_pickled_is_read_without_it(version):
    fields = load_pickled(PICKLES / f"tensordict-{version}.pt", trust=False)._tensordict
    assert {name: list(tensor.shape) for name, tensor in fields.items()} == {
        "obs": [2, 3, 2],
        "action": [2, 3, 1],
        "reward": [2, 3],
        "task": [2, 3],
    }
    assert fields["obs"].flatten().tolist() == list(range(12))
