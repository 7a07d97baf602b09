"""How a time is written for a person, the same wherever one is shown."""


def format_duration(seconds: float) -> str:
    """Return a time in the unit that suits it: `95 s`, `12 min`, `2.5 h`."""
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 7200.0 else f"{seconds / 3600.0:.1f} h"
