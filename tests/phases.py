"""The files in sweeps/, loaded."""

import runpy
from pathlib import Path

from pwmray.pretrain_command import Pretraining
from pwmray.search import Search
from pwmray.sweep import Sweep

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "sweeps").glob("*.py"))
PHASES = {path.stem: runpy.run_path(str(path)) for path in FILES}
SPECIFIED = {
    name: next(value for value in found.values() if isinstance(value, Sweep | Pretraining | Search))
    for name, found in PHASES.items()
}
SWEEPS = {name: found for name, found in SPECIFIED.items() if isinstance(found, Sweep)}
