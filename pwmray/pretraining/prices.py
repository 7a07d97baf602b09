"""What a pretraining costs: by its own pace so far, else by what the scale says of its kind.

Where the scale tells of another kind of world model alone, by the operations beside that one.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pwmray import results
from pwmray.build import build_shapes, num_parameters
from pwmray.flops import count_pretraining_flops
from pwmray.models import WORLD_MODELS
from pwmray.pretraining.config import PretrainingConfig
from pwmray.pretraining.folder import BEST_FILE, CURVE_FILE, LAST_FILE, RESUME_FILE, is_done
from pwmray.prices import OPERATIONS

KEPT_BYTES = 2 * 4  # a parameter: best.ckpt and last.ckpt
# At the most, for a while: best.ckpt, and twice resume.ckpt with Adam's two moments, which is
# replaced.
MOST_BYTES = 4 + 2 * 3 * 4
OWN_PACE, SCALE = "its own pace", "the scale's guess"


class Price(NamedTuple):
    """What is left of a pretraining on one device, and how that is known."""

    minutes: float
    source: str


def price(config: PretrainingConfig, scale: Mapping[str, Any], results_dir: Path) -> Price | None:
    """Return what a pretraining still takes, None where nothing tells.

    `scale` may have `pretraining_minutes`: minutes for 1,000 iterations of its size and batch by
    kind of world model.
    """
    iterations = config.settings.iterations
    done, seconds = _progress(config.folder(results_dir) / CURVE_FILE)
    left = max(0, iterations - done)
    if seconds:
        return Price(left * seconds / done / 60, OWN_PACE)
    guesses = scale.get("pretraining_minutes", {})
    kind = config.world_model.kind
    if kind in guesses:
        return Price(left * guesses[kind] / 1000, SCALE)
    if not guesses:
        return None
    other, minutes = next(iter(guesses.items()))
    ratio = _flops(config, kind) / _flops(config, other)
    return Price(left * ratio * minutes / 1000, OPERATIONS)


def count_disk_bytes(configs: Sequence[PretrainingConfig], results_dir: Path) -> int:
    """Return the bytes that pretrainings, run one after another, add to the disk at most."""
    kept, most = 0, 0
    for config in configs:
        folder = config.folder(results_dir)
        if is_done(folder):
            continue
        number = num_parameters(build_shapes(config.trial).world_model)
        kept += max(number * KEPT_BYTES - _size(folder / BEST_FILE, folder / LAST_FILE), 0)
        most = max(most, number * (MOST_BYTES - KEPT_BYTES) - _size(folder / RESUME_FILE))
    return kept + most


def _size(*paths: Path) -> int:
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


def num_done(folder: Path) -> int:
    """Return the iterations that a pretraining's curve has come to."""
    return _progress(folder / CURVE_FILE)[0]


def _progress(path: Path) -> tuple[int, float]:
    """Return the iterations done and the seconds that they took, zeros where it is not known."""
    if not path.exists():
        return 0, 0.0
    table = results.read_table(path)
    if "seconds" not in table.column_names or not len(table):
        return 0, 0.0
    last = table.slice(len(table) - 1).to_pylist()[0]
    return last["iteration"], last["seconds"] or 0.0


def _flops(config: PretrainingConfig, kind: str) -> int:
    """Count an iteration of the pretraining, had it that kind of world model."""
    trial = config.trial
    if kind != trial.world_model.kind:
        sizes = {
            field.name: getattr(trial.world_model, field.name)
            for field in dataclasses.fields(WORLD_MODELS[kind].Config)
            if hasattr(trial.world_model, field.name) and field.name != "kind"
        }
        trial = dataclasses.replace(trial, world_model=WORLD_MODELS[kind].Config(**sizes))
    return count_pretraining_flops(trial, config.settings.batch_size)
