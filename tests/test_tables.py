"""Plain-text tables: they fit the page, and nothing of a cell is lost where there is no room."""

import numpy as np
import pytest

from analysis.formats.grid import Grid, format_p, format_rate
from analysis.formats.tables import WIDTH, draw_grid

WORDS = ("12", "+-", "3.5", "a-long-word", "fullflow", "joint_from_scratch", "[-1, 2]", "-")


def make_grid(num_columns: int, num_words: int, seed: int) -> Grid:
    rng = np.random.default_rng(seed)
    cells = rng.choice(WORDS, (12, num_columns, num_words))
    rows = [tuple(" ".join(cell) for cell in row) for row in cells[1:]]
    return Grid("", ("task", *(f"column {place}" for place in range(1, num_columns))), rows, ())


@pytest.mark.parametrize("num_columns", [2, 7, 11])
@pytest.mark.parametrize("num_words", [1, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("width", [80, WIDTH])
def test_table_fits_and_holds_every_character(num_columns, num_words, seed, width):
    grid = make_grid(num_columns, num_words, seed)
    lines = list(draw_grid(grid, width))
    assert max(map(len, lines)) <= width
    rule = [line for line in lines if set(line) == {"-"} and len(line) > 20]
    assert len(rule) == 1
    body = "".join(line for line in lines if line not in rule).replace(" ", "")
    expected = "".join("".join(row) for row in (grid.headers, *grid.rows)).replace(" ", "")
    assert sorted(body) == sorted(expected)


def test_column_of_words_stands_left_and_of_numbers_right():
    grid = Grid("", ("task", "n"), [("walker", "3"), ("cup", "12")], ())
    assert list(draw_grid(grid)) == ["task     n", "----------", "walker   3", "cup     12"]


def test_levels_that_are_words_stand_left_whatever_their_column_is_called():
    assert Grid("", ("tuning", "lr"), [("euler", "1e-4"), ("2/heun", "3")], ()).are_words == [
        True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("width", "first", "second"),
    [
        (30, "cartpole-swingup 234.9 +- 12.2", ""),
        (25, "cartpole-   234.9 +- 12.2", "swingup"),
        (19, "cartpole-  234.9 +-", "swingup        12.2"),
    ],
)
def test_a_name_is_broken_at_its_hyphen_and_a_mean_before_its_sd_never_a_number(
    width, first, second
):
    grid = Grid("", ("task", "return"), [("cartpole-swingup", "234.9 +- 12.2")], ())
    _, _, *lines = draw_grid(grid, width)
    assert [line.rstrip() for line in lines] == [line for line in (first, second) if line]


def test_keys_too_long_for_their_columns_stand_once_above_the_table():
    keys = ("learner.world_model_lr", "learner.policy_lr")
    *legend, headers, _, _ = draw_grid(Grid("", ("task", *keys), [("cup", "0.1", "0.2")], ()), 20)
    assert "".join(legend) == "[1]=learner.world_model_lr, [2]=learner.policy_lr"
    assert headers.split() == ["task", "[1]", "[2]"]


def test_long_cell_goes_on_below_its_own_column():
    grid = Grid("", ("task", "verdict"), [("w" * 60, "wins here and there " * 3), ("v", "tie")], ())
    lines = [line.rstrip() for line in draw_grid(grid)]
    assert lines[2:] == [
        f"{'w' * 60}  wins here and there wins here and",
        f"{'':60}  there wins here and there",
        f"v{'':59}  tie",
    ]


def test_gaps_become_narrow_before_a_cell_is_broken():
    verdict = "Inconclusive (9 seeds)"
    grid = Grid("", ("task", "n", "verdict"), [("cup", "3", verdict)], ())
    assert list(draw_grid(grid, 30))[2:] == [f"cup  3 {verdict}"]
    assert [line.split() for line in draw_grid(grid, 28)][2:] == [
        ["cup", "3", "Inconclusive"],
        ["(9", "seeds)"],
    ]


@pytest.mark.parametrize(
    ("per_hour", "shown"),
    [(None, "-"), (1_147_927.3, "1,150,000"), (-92_537.0, "-92,500"), (-0.2, "0"), (12.0, "12")],
)
def test_rates_have_the_digits_that_a_few_seeds_support(per_hour, shown):
    assert format_rate(per_hour) == shown


@pytest.mark.parametrize(
    ("p", "shown"),
    [
        (None, "-"),
        (1.0, "1.000"),
        (0.05, ".050"),
        (0.0497, ".049"),
        (0.012, ".012"),
        (4e-4, "<.001"),
    ],
)
def test_p_below_the_threshold_of_evidence_is_not_shown_as_the_threshold(p, shown):
    assert format_p(p) == shown
