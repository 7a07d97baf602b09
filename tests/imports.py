"""What files import, read from their source; a program in which an import is an error."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAVY = ("ray", "wandb", "gymnasium", "mujoco", "dm_control", "shimmy", "matplotlib")
# Runs a program in which importing some packages is an error.
BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is not to be imported here")

sys.meta_path.insert(0, Blocker())
import {modules}
"""


def imported_modules(path):
    """Return the dotted names that a file imports, in functions too, one for each name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def source_files(folder):
    path = ROOT / folder
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def arrows(folder, forbidden):
    """List every import under `folder` of a forbidden module or of one inside it."""
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in source_files(folder)
        for name in sorted(imported_modules(path))
        if any(f"{name}.".startswith(f"{module}.") for module in forbidden)
    ]
