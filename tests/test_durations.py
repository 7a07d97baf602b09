import pytest

from pwmray.durations import format_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (119.4, "119 s"),
        (120.0, "2 min"),
        (5_580.0, "93 min"),
        (7_200.0, "2.0 h"),
        (9e5, "250.0 h"),
    ],
)
def test_duration_is_in_the_unit_that_suits_it(seconds, text):
    assert format_duration(seconds) == text
