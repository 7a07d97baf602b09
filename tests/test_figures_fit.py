"""What stands in a figure fits into it: names, titles and marks of many levels or of extremes."""

import itertools
import json
from collections.abc import Iterable
from typing import Any

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from analysis.figures import STYLE, list_figures
from analysis.load import load_sweep
from analysis.report import summarize_sweep
from tests.corrections import METHODOLOGIES
from tests.made_sweeps import SEEDS, make_row
from tests.squares import write_square, write_trials

BUDGETS = (1000, 2000, 3000, 5000, 10000, 15000, 20000, 50000, 75000, 100000, 125000, 150000)
VARIANTS = ("baseline", "fullflow")
WIDEST = 16.6  # inches: shrunk into a page, text of 7.5 points is still legible


def draw(folder: Any, *names: str) -> dict[str, Figure]:
    """Return figures of a sweep, laid out: those of these names, or all."""
    with matplotlib.rc_context(STYLE):
        found = list_figures(summarize_sweep(load_sweep(folder)))
        figures = {name: found[name] for name in names or found}
        for figure in figures.values():
            figure.draw_without_rendering()
    return figures


def write_budgets(folder: Any, budgets: Iterable[int] = BUDGETS) -> Any:
    rows = [
        make_row("reacher-easy", variant, epochs, seed) | {"return_mean": 500.0 + seed / 10.0}
        for variant in VARIANTS
        for epochs in budgets
        for seed in SEEDS
    ]
    write_trials(folder, rows, ["variant", "epochs", "task", "seed"], "epochs")
    return folder


def list_names(axes: Axes) -> list[Text]:
    return [label for label in axes.get_xticklabels() if label.get_text()]


def are_apart(texts: list[Text]) -> bool:
    boxes = [text.get_window_extent() for text in texts]
    return not any(Bbox.intersection(*pair) for pair in itertools.combinations(boxes, 2))


def test_names_of_many_budgets_do_not_lie_on_one_another(tmp_path):
    folder = write_budgets(tmp_path / "s")
    figures = draw(folder, "returns_by_epochs", "return_against_epochs")
    returns = list_names(figures["returns_by_epochs"].axes[0])
    assert len(returns) == len(BUDGETS)
    assert are_apart(returns)
    along = list_names(figures["return_against_epochs"].axes[0])
    assert [text.get_text() for text in along][-2:] == ["100k", "150k"]
    assert are_apart(along)


def test_a_map_of_many_verdicts_goes_on_below(tmp_path):
    numbers = {"winners_by_epochs": 22, "winners_by_variant": 12}
    figures = draw(write_budgets(tmp_path / "s"), *numbers)
    for name, number in numbers.items():
        figure = figures[name]
        assert figure.get_figwidth() <= WIDEST
        assert sum(len(list_names(axes)) for axes in figure.axes) == number
        assert sum(len(axes.patches) for axes in figure.axes) == number
        assert all(len(axes.patches) == len(list_names(axes)) for axes in figure.axes)
        assert all(
            [t.get_text() for t in a.get_yticklabels()] == ["reacher-easy"] for a in figure.axes
        )


def test_a_long_name_of_a_sweep_is_cut_off_in_no_figure(tmp_path):
    cells = {variant: [300.0, 320.0, 340.0] for variant in VARIANTS}
    folder = write_square(tmp_path / ("a_name_" * 14), {"reacher-easy": cells})
    for figure in draw(folder).values():
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0.0
        assert box.x1 <= figure.bbox.x1


@pytest.mark.parametrize("value", [0.0, 1000.0])
def test_marks_on_an_edge_are_whole(tmp_path, value):
    cells = {variant: [value] * 3 for variant in VARIANTS}
    folder = write_square(tmp_path / "s", {"reacher-easy": cells})
    figures = draw(folder, "pairs_of_seeds_by_variant", "return_against_cost")
    for figure in figures.values():
        axes = figure.axes[0]
        marks = [line for line in axes.lines if line.get_linestyle() == "None"]
        marks += [some for some in axes.collections if isinstance(some, PathCollection)]
        assert marks
        assert not any(mark.get_clip_on() for mark in marks)


def draw_effects(folder: Any) -> Figure:
    return draw(folder, "effects_of_the_2x2")["effects_of_the_2x2"]


def list_effects(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def write_squares(folder: Any, kinds: Iterable[tuple[str, str, str]], methodologies: Any) -> Any:
    """Write a sweep of two tasks; `kinds` are variants, their world models and policies."""
    rows = [
        make_row(task, "baseline", 100, seed)
        | {"variant": variant, "world_model": world_model, "policy": policy}
        | {"methodology": methodology, "return_mean": 400.0 + seed / 10.0}
        | {"trial": f"{task}-{variant}-{methodology}-{seed}"}
        for task in ("reacher-easy", "walker-stand")
        for variant, world_model, policy in kinds
        for methodology in methodologies
        for seed in SEEDS
    ]
    write_trials(folder, rows, ["variant", "methodology", "task", "seed"], "variant")
    return folder


SQUARE = [
    ("baseline", "mlp", "gaussian"), ("flowpolicy", "mlp", "flow"),
    ("flowwm", "flow", "gaussian"), ("fullflow", "flow", "flow"),
]  # fmt: skip


def test_effects_are_named_by_short_names_that_are_explained(tmp_path):
    figure = draw_effects(write_squares(tmp_path / "s", SQUARE, METHODOLOGIES[1:]))
    assert list_effects(figure) == [
        "reacher-easy, fine-tuned", "reacher-easy, scratch",
        "walker-stand, fine-tuned", "walker-stand, scratch",
        "2 tasks, fine-tuned", "2 tasks, scratch",
    ]  # fmt: skip
    said = " ".join(figure.get_supxlabel().split())
    assert "fine-tuned = policy_and_wm_finetuning" in said


def test_effects_of_several_kinds_are_told_apart(tmp_path):
    third = [("ssm", "ssm", "gaussian"), ("ssmflow", "ssm", "flow")]
    folder = write_squares(tmp_path / "s", [*SQUARE, *third], METHODOLOGIES[:1])
    assert list_effects(draw_effects(folder)) == [
        f"{place}, {kinds}"
        for place in ("reacher-easy", "walker-stand", "2 tasks")
        for kinds in ("flow + flow", "ssm + flow")
    ]


def test_columns_of_numbers_say_what_they_are(tmp_path):
    rows = [
        make_row("reacher-easy", variant, 100, seed)
        | {"learner.horizon": horizon, "trial": f"{variant}-{horizon}-{seed}"}
        for variant in VARIANTS
        for horizon in (2, 4, 8, 16, 32)
        for seed in SEEDS
    ]
    for row in rows:
        row["config"] = json.dumps({"learner": {"horizon": row.pop("learner.horizon")}})
    varies = ["variant", "learner.horizon", "task", "seed"]
    write_trials(tmp_path / "s", rows, varies, "variant")
    figure = draw(tmp_path / "s")["learning_curves"]
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [f"horizon {horizon}" for horizon in (2, 4, 8, 16, 32)]
