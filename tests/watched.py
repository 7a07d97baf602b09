"""A real sweep to watch: a short and a long trial at once, and others after the short one."""

import os

from pwmray.sweep import Sweep
from tests.tiny import UNPLANNED

SCALES = {
    "tiny": {
        "instead": {},
        "set": {
            **UNPLANNED,
            "evaluation.every_epochs": 20,
            "runtime.num_cpus": max(1, (os.cpu_count() or 1) // 2),  # two at once
        },
    }
}

sweep = Sweep(
    name="phase6",
    vary={
        "epochs": [200, 100_000],
        "task": ["walker-stand"],
        "variant": ["baseline", "fullflow"],
        "seed": [42],
    },
    compare="variant",
    within=["epochs"],
    scales=SCALES,
)

if __name__ == "__main__":
    sweep.main()
