"""`pwmray checkpoint`: describe a checkpoint, convert a published one to our format."""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwmray.commands import Subcommands
from pwmray.tasks import TASK_SETS, find_task
from pwmray.wording import number_of

if TYPE_CHECKING:  # torch takes seconds to load, and most commands need none
    from pwmray.models.checkpoints import WorldModelCheckpoint

_BUFFERS = ("obs_mean", "obs_std")
_Rows = list[tuple[str, str]]  # what, and the value


def add_checkpoint_commands(commands: Subcommands) -> None:
    """Add `checkpoint info` and `checkpoint import`."""
    checkpoint = commands.add_parser("checkpoint", help="describe and convert checkpoints")
    actions = checkpoint.add_subparsers(required=True, metavar="COMMAND")
    info = actions.add_parser("info", help="describe a checkpoint, ours or a published one")
    info.add_argument("file", type=Path, metavar="FILE")
    _add_trust(info)
    info.set_defaults(run=_show)
    convert = actions.add_parser("import", help="convert a published world model to our format")
    convert.add_argument("file", type=Path, metavar="FILE")
    convert.add_argument("out", type=Path, metavar="OUT")
    convert.add_argument(
        "--task-set",
        choices=tuple(TASK_SETS),
        default="",
        help="the task set it was trained on, where the file does not say; default: the one of "
        "as many tasks",
    )
    convert.add_argument("--force", action="store_true", help="replace OUT where it exists")
    _add_trust(convert)
    convert.set_defaults(run=_import)


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust",
        action="store_true",
        help="load a file that needs more than tensors, which may run code of whoever wrote it",
    )


def _show(chosen: argparse.Namespace) -> None:
    for what, value in _describe(chosen.file, chosen.trust):
        print(f"{what:<12} {value}")


def _import(chosen: argparse.Namespace) -> None:
    from pwmray import checkpoint_file
    from pwmray.algorithm import checkpoint
    from pwmray.models import checkpoints
    from pwmray.models.published import read_published

    header = checkpoint_file.read_header(chosen.file)
    if chosen.out.exists() and chosen.out.samefile(chosen.file):
        raise ValueError(f"{chosen.out} is the published file itself; give OUT another name")
    if chosen.out.exists() and not chosen.force:
        raise ValueError(f"{chosen.out} exists; pass --force to replace it")
    for ours in (checkpoint.FORMAT, checkpoints.FORMAT):
        if checkpoint_file.is_of(header, ours):
            raise ValueError(f"{chosen.file} is already a checkpoint of ours: {header.format}")
    found = read_published(chosen.file, chosen.task_set, chosen.trust)
    checkpoints.save_world_model(chosen.out, found)
    print(f"{chosen.out}: {found.config.kind} world model of {_tasks(found)}")


def _describe(path: Path, trust: bool) -> _Rows:
    import torch

    from pwmray import checkpoint_file
    from pwmray.algorithm import checkpoint
    from pwmray.models import checkpoints
    from pwmray.models.published import read_published

    size = f"{path} ({path.stat().st_size / 1e6:.1f} MB)"
    header = checkpoint_file.read_header(path)
    if checkpoint_file.is_of(header, checkpoint.FORMAT):
        saved = checkpoint.read(path, torch.device("cpu"))
        rows, header = _trial_rows(saved.metadata), header._replace(digest=saved.digest)
    elif checkpoint_file.is_of(header, checkpoints.FORMAT):
        rows = _world_model_rows(checkpoints.load_world_model(path))
    else:
        published = read_published(path, trust=trust)
        rows = _world_model_rows(published)
        assert published.source is not None
        header = checkpoint_file.Header(published.source.format, published.source.sha256)
    return [("file", size), ("format", header.format), ("sha256", header.digest), *rows]


def _world_model_rows(found: "WorldModelCheckpoint") -> _Rows:
    parts = Counter()
    for name, tensor in found.state.items():
        if name not in _BUFFERS:
            parts[name.partition(".")[0]] += tensor.numel()
    rows = [
        ("kind", f"{found.config.kind} world model, {found.fidelity}"),
        ("task set", _tasks(found)),
        ("dimensions", _dimensions(found.obs_dim, found.action_dim, vars(found.config))),
        ("units", _units(vars(found.config))),
        ("iterations", _iterations(found)),
        ("data", found.data_fingerprint or "unknown"),
        ("training", ", ".join(f"{k} {v}" for k, v in found.training.items()) or "unknown"),
        ("parameters", _parameters(parts)),
    ]
    if found.source is None:
        return rows
    source = found.source
    orders = "; ".join(f"{part} {', '.join(o)}" for part, o in source.input_order.items())
    return [
        *rows,
        ("ignored", ", ".join(source.ignored) or "nothing"),
        ("source", f"{source.format} file {source.file}, sha256 {source.sha256}"),
        ("its inputs", orders),
    ]


def _trial_rows(found: dict[str, Any]) -> _Rows:
    config = found["config"]
    task, world_model, policy = find_task(config["task"]), config["world_model"], config["policy"]
    units = f"{_units(world_model)}; policy {_widths(policy)}; critic {_widths(config['critic'])}"
    return [
        ("kind", f"trial: {world_model['kind']} world model, {policy['kind']} policy"),
        ("task", task.name),
        ("dimensions", _dimensions(task.obs_dim, task.action_dim, world_model)),
        ("units", units),
        ("epochs", str(found["progress"].get("epochs_reached", "unknown"))),
        ("parameters", _parameters(found["parameters"])),
    ]


def _tasks(found: "WorldModelCheckpoint") -> str:
    return f"{found.task_set or 'an unknown set'} ({number_of(found.num_tasks, 'task')})"


def _iterations(found: "WorldModelCheckpoint") -> str:
    if found.iterations is None:
        return "unknown"
    return str(found.iterations) + (f" of {found.run_iterations}" if found.run_iterations else "")


def _dimensions(obs_dim: int, action_dim: int, config: dict[str, Any]) -> str:
    return (
        f"observation {obs_dim}, action {action_dim}, latent {config['latent_dim']}, "
        f"task {config['task_dim']}, bins {config['num_bins']} over +-{config['bin_range']:g}"
    )


def _units(config: dict[str, Any]) -> str:
    encoder = " ".join(map(str, config["encoder_units"]))
    return f"encoder {encoder}; dynamics and reward {_widths(config)}"


def _widths(config: dict[str, Any]) -> str:
    return " ".join(map(str, config["units"]))


def _parameters(parts: dict[str, int]) -> str:
    return f"{sum(parts.values())}: {', '.join(f'{name} {n}' for name, n in parts.items())}"
