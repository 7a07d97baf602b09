"""Recorded episodes and states of every task, and physics put into one of these states."""

from pathlib import Path

import mujoco
import numpy as np

GOLDEN = np.load(Path(__file__).parent / "data" / "golden_mt30.npz")


def set_probe(physics, task: str, index: int) -> None:
    """Put dm_control's physics into a recorded state."""
    kind = "site" if task.startswith("finger") else "geom"
    target = GOLDEN[f"{task}/probe_target"][index]
    mujoco.mj_resetData(physics.model.ptr, physics.data.ptr)
    if target.size:
        getattr(physics.named.model, f"{kind}_pos")["target"] = target[:3]
        getattr(physics.named.model, f"{kind}_size")["target", 0] = target[3]
    for name in ("qpos", "qvel", "ctrl"):
        getattr(physics.data, name)[:] = GOLDEN[f"{task}/probe_{name}"][index]
    mujoco.mj_forward(physics.model.ptr, physics.data.ptr)


def model_bytes(model: mujoco.MjModel) -> bytes:
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()
