"""Settings that must be made before any test imports torch."""

import os

# Two threads for tensors this small only wait for each other: minutes on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
