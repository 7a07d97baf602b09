"""Of which code a result is: what all trials share of the learner, and what is their kinds' own.

So who adds a kind, or edits one, leaves the results of the others comparable.
"""

import ast
import functools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pwmray import provenance
from pwmray.models import POLICIES, WORLD_MODELS

if TYPE_CHECKING:
    from pwmray.config import TrialConfig
    from pwmray.registry import Record

# What of this package computes the numbers of trials and pretrainings, beside the models; the rest
# plans, records and shows them. Of models/ all share what these import, which is no kind.
_LEARNER = (
    "algorithm",
    "data",
    "envs",
    "kernels",
    "pretraining",
    "build.py",
    "config.py",
    "devices.py",
    "fidelity.py",
    "precision.py",
    "seeding.py",
    "tasks.py",
    "trial.py",
)
LEARNER = "the learner"  # the name of the code that all trials share
_MODELS = provenance.PACKAGE / "models"
_NAME = f"{_MODELS.parent.name}.{_MODELS.name}"
_KINDS = {"world_model": WORLD_MODELS, "policy": POLICIES}


def describe(**kinds: str) -> dict[str, str | None]:
    """Return what a trial or pretraining of these kinds is recorded under: versions and code."""
    return {**provenance.code(), **fingerprints(**kinds)}


def kinds_of(config: "TrialConfig") -> dict[str, str]:
    """Return a trial's kinds by the part of it that they are of."""
    return {"world_model": config.world_model.kind, "policy": config.policy.kind}


def fingerprints(**kinds: str) -> dict[str, str | None]:
    """Return 8 hex digits over the code that all kinds share, and over the own of each of `kinds`.

    All are None where one is of a kind in no file, as of a notebook: then only the commit tells.
    """
    found = {"code_fingerprint": _digest_shared()}
    for part, name in kinds.items():
        own = _digest_own(_KINDS[part].get(name))
        found[f"{part}_code"] = own and f"{name} {own}"
    return found if all(found.values()) else dict.fromkeys(found)


def name_code(kinds: dict[str, str]) -> dict[str, str]:
    """Return what the columns of `fingerprints` are of, in words."""
    of_kinds = {f"{part}_code": f"{part.replace('_', ' ')} {kinds[part]}" for part in kinds}
    return {"code_fingerprint": LEARNER, **of_kinds}


def find_other_code(record: "Record", kinds: dict[str, str]) -> list[str]:
    """Name the code by other than which a trial was last trained; by the commit if that is all."""
    if record.last("code_fingerprint") is None:
        is_other = record.last("git_commit") not in (None, provenance.code()["git_commit"])
        return [LEARNER] if is_other else []
    names, now = name_code(kinds), fingerprints(**kinds)
    return [names[column] for column in now if record.last(column) != now[column]]


@functools.cache
def _digest_shared() -> str | None:
    return provenance.digest_files(_shared())


@functools.cache
def _digest_own(kind: type | None) -> str | None:
    """Return a hash of a kind: its class, its file, and what that imports and no learner does."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None) if kind else None
    if kind is None or file is None or not Path(file).is_file():
        return None
    path = Path(file).resolve()
    return provenance.digest_files({path, *(_reach([path]) - _shared())}, kind.__qualname__)


@functools.cache
def _shared() -> set[Path]:
    files = [path for path in provenance.package_files() if _is_learner(path)]
    return {*files, *_reach(files)}


def _reach(files: Iterable[Path]) -> set[Path]:
    """Return the files of models/ that some files import, and those that these import."""
    found, left = set(), list(files)
    while left:
        new = {file for _, name in _imports(left.pop()) for file in _resolve(name)} - found
        found |= new
        left += new
    return found


def _resolve(name: str) -> set[Path]:
    """Return the files of models/ that a dotted name is from; of the registries there, none."""
    if not f"{name}.".startswith(f"{_NAME}."):
        return set()
    first = name.removeprefix(_NAME).strip(".").partition(".")[0]
    modules = [_exported().get(first, first)] if first not in ("", "*") else _exported().values()
    found = [path for m in modules for path in (_MODELS / f"{m}.py", *(_MODELS / m).rglob("*.py"))]
    return {path for path in found if path.is_file()}


@functools.cache
def _exported() -> dict[str, str]:
    """Return the modules that models/__init__.py imports from, by the names there."""
    init = _MODELS / "__init__.py"
    return {n: dotted.split(".")[2] for n, dotted in _imports(init) if f"{_NAME}." in dotted}


@functools.cache
def _imports(path: Path) -> list[tuple[str, str]]:
    """Return what a file imports from models/: the name that it has there, and the dotted one."""
    source = path.read_bytes()
    if b"models" not in source and not path.is_relative_to(_MODELS):
        return []  # most do not, and a parser is slow
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # cannot be run either, as what an editor leaves
        return []
    return [pair for node in ast.walk(tree) for pair in _names(node, path)]


def _names(node: ast.AST, path: Path) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import):
        yield from ((alias.asname or alias.name, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        folder = path.parents[max(node.level - 1, 0)]
        is_ours = node.level and folder.is_relative_to(provenance.ROOT)
        above = folder.relative_to(provenance.ROOT).parts if is_ours else ()
        origin = ".".join([*above, *([node.module] if node.module else [])])
        yield from ((alias.asname or alias.name, f"{origin}.{alias.name}") for alias in node.names)


def _is_learner(path: Path) -> bool:
    return path.relative_to(provenance.PACKAGE).parts[0] in _LEARNER
