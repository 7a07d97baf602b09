"""World models in files of ours, and the command that shows and converts checkpoints."""

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from pwmray import checkpoint_file, cli
from pwmray.algorithm import checkpoint
from pwmray.build import build_learner, count_parameters
from pwmray.config import TrialConfig
from pwmray.models import WORLD_MODELS
from pwmray.models.checkpoints import (
    FORMAT,
    describe_world_model,
    digest,
    load_world_model,
    save_world_model,
)
from pwmray.models.published import read_published
from pwmray.pickles import load_pickled
from pwmray.tasks import TASKS
from tests.model_inputs import built

PUBLISHED = Path(__file__).parent / "data" / "published"
PWM = PUBLISHED / "pwm_mlp" / "checkpoint.pt"
FLOW = PUBLISHED / "fork_flowwm_heun2" / "checkpoint.pt"
TDMPC2 = PUBLISHED / "tdmpc2" / "tdmpc2_old_api_tiny.pt"
SMALL = {"latent_dim": 16, "encoder_units": (12,), "units": (20, 12), "task_dim": 4, "num_bins": 11}


def small_model(kind="mlp"):
    config = WORLD_MODELS[kind].Config(**SMALL)
    return WORLD_MODELS[kind](config, torch.Generator().manual_seed(1))


def described(model):
    return describe_world_model(model, "corrected", "mt30", tuple(TASKS), 500, "0123abcd")


def save_small(path, kind="mlp"):
    save_world_model(path, described(small_model(kind)))
    return path


class Settings:
    """A class that a file of others might bring along."""


# Ours.


@pytest.mark.parametrize("kind", WORLD_MODELS)
def test_world_model_comes_back_from_its_file_as_it_was(kind, tmp_path):
    model = small_model(kind)
    nn.init.normal_(model.obs_mean, generator=torch.Generator().manual_seed(2))
    saved = described(model)

    save_world_model(tmp_path / "model.pt", saved)
    loaded = load_world_model(tmp_path / "model.pt")

    plain = {"state": {}}
    assert dataclasses.replace(loaded, **plain) == dataclasses.replace(saved, **plain)
    torch.testing.assert_close(built(loaded).state_dict(), model.state_dict(), rtol=0, atol=0)


def test_source_comes_back_with_an_imported_world_model(tmp_path):
    imported = read_published(TDMPC2)
    save_world_model(tmp_path / "model.pt", imported)
    loaded = load_world_model(tmp_path / "model.pt")
    assert loaded.source == imported.source
    assert loaded.source.sha256 == hashlib.sha256(TDMPC2.read_bytes()).hexdigest()


def test_saved_weights_do_not_follow_the_model_they_were_taken_from():
    model = small_model()
    saved = described(model)
    with torch.no_grad():
        model.encoder[0].bias.fill_(7.0)
    assert saved.state["encoder.0.bias"].abs().max() == 0


def test_digest_is_that_of_the_content_and_read_from_the_first_line(tmp_path):
    whole = save_small(tmp_path / "model.pt").read_bytes()
    first, _, content = whole.partition(b"\n")
    assert digest(tmp_path / "model.pt") == hashlib.sha256(content).hexdigest()
    (tmp_path / "line.pt").write_bytes(first + b"\n")
    assert digest(tmp_path / "line.pt") == digest(tmp_path / "model.pt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_world_model_cut_short_is_named(share, tmp_path):
    path = save_small(tmp_path / "model.pt")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"model\.pt is not a (readable checkpoint|world model)"):
        load_world_model(path)


def test_world_model_of_a_newer_version_is_named(tmp_path):
    (tmp_path / "new.pt").write_bytes(b"pwmray-world-model-12 abc\nstate")
    with pytest.raises(ValueError, match=r"new\.pt .*'pwmray-world-model-12'.* update this one"):
        load_world_model(tmp_path / "new.pt")
    with pytest.raises(ValueError, match="update this one"):
        digest(tmp_path / "new.pt")


@pytest.mark.parametrize("read", [load_world_model, digest])
def test_published_file_is_not_taken_for_one_of_ours(read):
    with pytest.raises(ValueError, match=r"tiny\.pt is not .* of ours; .*checkpoint import"):
        read(TDMPC2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"kind": "tree"}}, r"kind 'tree'; valid: mlp, flow"),
        ({"config": {"kind": "mlp", "depth": 3}}, r"unknown settings: depth"),
        ({"input_order": ("z", "action", "task")}, r"in the order \('z', 'action', 'task'\)"),
    ],
)
def test_world_model_that_is_not_known_here_is_named(change, message, tmp_path):
    path = save_small(tmp_path / "model.pt")
    content = checkpoint_file.read(path, FORMAT, torch.device("cpu"))
    checkpoint_file.write(path, FORMAT, {**content, **change})
    with pytest.raises(ValueError, match=rf"model\.pt .*{message}"):
        load_world_model(path)


def test_world_model_without_a_field_is_named(tmp_path):
    checkpoint_file.write(tmp_path / "model.pt", FORMAT, {"config": {}})
    with pytest.raises(ValueError, match=r"model\.pt lacks action_dim, data_fingerprint, fide"):
        load_world_model(tmp_path / "model.pt")


def test_code_in_a_file_of_ours_is_not_run(tmp_path):
    checkpoint_file.write(tmp_path / "model.pt", FORMAT, {"config": Path("x")})
    with pytest.raises(ValueError, match=r"model\.pt is not .*: it holds more than data"):
        load_world_model(tmp_path / "model.pt")


# The command.


def run(capsys, *arguments):
    """Return the exit code with what was printed, and errors, of `pwmray checkpoint`."""
    code = cli.main(["checkpoint", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_command_imports_and_describes_a_published_file(tmp_path, capsys):
    out = tmp_path / "model.pt"
    assert run(capsys, "import", PWM, out)[:2] == (
        0,
        f"{out}: mlp world model of an unknown set (3 tasks)\n",
    )
    code, shown, _ = run(capsys, "info", out)
    assert code == 0
    assert digest(out) in shown
    assert hashlib.sha256(PWM.read_bytes()).hexdigest() in shown
    assert "observation 24, action 6, latent 64, task 16, bins 101 over +-10" in shown
    assert "46485: task_embedding 48, encoder 15616" in shown


@pytest.mark.parametrize(
    ("path", "units", "order"),
    [
        (PWM, ("64 64 64", "64 64"), "dynamics z, task, action; reward_head z, task, action"),
        (
            FLOW,
            ("64 64 64", "64 64"),
            "published_velocity z, action, tau, task; reward_head z, action, task",
        ),
        (TDMPC2, ("32 32", "32 32"), "dynamics z, task, action; reward_head z, task, action"),
    ],
)
def test_info_of_a_published_file_names_it_and_what_is_ignored(path, units, order, capsys):
    code, shown, _ = run(capsys, "info", path)
    assert code == 0
    assert f"units        encoder {units[0]}; dynamics and reward {units[1]}\n" in shown
    assert f"its inputs   {order}\n" in shown
    assert "data         unknown\ntraining     unknown\n" in shown
    assert hashlib.sha256(path.read_bytes()).hexdigest() in shown
    assert "ignored " in shown
    assert "an unknown set (3 tasks)" in shown


def test_info_of_a_trial_tells_its_task_and_epochs(tmp_path, capsys):
    config = TrialConfig.from_flat(
        {"task": "cheetah-run", "seed": 1, "epochs": 9, "policy.kind": "flow", "policy.units": (8,)}
    )
    about = {"config": config.to_dict(), "tasks": ["cheetah-run"]}
    learner, progress = build_learner(config), {"epochs_reached": 7}
    checkpoint.save(tmp_path / "checkpoint.pt", about, learner, {}, progress)
    code, shown, _ = run(capsys, "info", tmp_path / "checkpoint.pt")
    assert code == 0
    assert "trial: mlp world model, flow policy" in shown
    assert "task         cheetah-run" in shown
    assert "epochs       7" in shown
    assert "observation 17, action 6, latent 768, task 64, bins 101 over +-10" in shown
    model = "encoder 1792 1792 1792; dynamics and reward 1792 1792"
    assert f"units        {model}; policy 8; critic 400 200\n" in shown
    counts = count_parameters(config)
    parts = ", ".join(f"{name} {count}" for name, count in counts.items())
    assert f"parameters   {sum(counts.values())}: {parts}" in shown


def test_import_does_not_replace_a_file_unless_told_to(tmp_path, capsys):
    (tmp_path / "model.pt").write_bytes(b"precious")
    code, _, error = run(capsys, "import", TDMPC2, tmp_path / "model.pt")
    assert (code, (tmp_path / "model.pt").read_bytes()) == (2, b"precious")
    assert error == f"error: {tmp_path / 'model.pt'} exists; pass --force to replace it\n"
    assert run(capsys, "import", TDMPC2, tmp_path / "model.pt", "--force")[0] == 0
    assert load_world_model(tmp_path / "model.pt").num_tasks == 3


@pytest.mark.parametrize("options", [(), ("--force",)])
def test_import_does_not_replace_what_it_reads(options, tmp_path, capsys):
    published, link = tmp_path / "published.pt", tmp_path / "link.pt"
    published.write_bytes(TDMPC2.read_bytes())
    link.symlink_to(published)
    code, _, error = run(capsys, "import", published, link, *options)
    assert (code, published.read_bytes()) == (2, TDMPC2.read_bytes())
    assert error == f"error: {link} is the published file itself; give OUT another name\n"


def test_import_into_a_task_set_of_another_size_writes_nothing(tmp_path, capsys):
    arguments = ("import", TDMPC2, tmp_path / "model.pt", "--task-set", "mt30")
    code, _, error = run(capsys, *arguments)
    assert code == 2
    assert "it has 3 tasks; mt30 has 30" in error
    assert list(tmp_path.iterdir()) == []


def test_world_model_of_ours_is_not_imported_again(tmp_path, capsys):
    path = save_small(tmp_path / "model.pt")
    code, _, error = run(capsys, "import", path, tmp_path / "again.pt")
    assert code == 2
    assert "model.pt is already a checkpoint of ours" in error


def write_cut(path):
    path.write_bytes(PWM.read_bytes()[:500_000])


def write_old(path):
    torch.save({"a": 1}, path, _use_new_zipfile_serialization=False)


def write_hole(path):
    damaged = bytearray(PWM.read_bytes())
    weight = load_pickled(PWM, trust=False)["world_model"]["_dynamics.0.weight"].numpy().tobytes()
    start = damaged.index(weight[:64])
    damaged[start : start + 4] = bytes(4)
    path.write_bytes(damaged)


def write_flipped(path):
    save_small(path)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(damaged)


BAD_FILES = {
    "cut": (write_cut, "is cut short"),
    "old": (write_old, "in torch's format from before 1.6; save it again with a newer torch"),
    "hole": (write_hole, "does not match its checksum; fetch the file again"),
    "flipped": (write_flipped, "its content is damaged"),
    "absent": (lambda path: None, "No such file or directory"),
    "empty": (lambda path: path.touch(), "torch did not write it, it is empty"),
    "text": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        "torch did not write it, it begins with b'version https://git-lfs.github.c'",
    ),
    "list": (lambda path: torch.save([1, 2], path), "holds a list, not a checkpoint"),
    "keys": (lambda path: torch.save({"a": 1}, path), "no world model that is known here"),
    "folder": (lambda path: path.mkdir(), "Is a directory"),
    "newer": (
        lambda path: path.write_bytes(b"pwmray-checkpoint-99 0\n"),
        "a newer pwmray wrote it, update this one",
    ),
    "class": (lambda path: torch.save(Settings(), path), "Settings"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_one_line_and_exit_code_2(name, tmp_path, capsys):
    write, message = BAD_FILES[name]
    write(tmp_path / "file.pt")
    code, shown, error = run(capsys, "info", tmp_path / "file.pt")
    assert (code, shown) == (2, "")
    assert len(error.splitlines()) == 1
    assert message in error
    assert str(tmp_path / "file.pt") in error
