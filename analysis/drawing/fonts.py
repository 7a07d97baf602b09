"""Find a font for letters that matplotlib's own lacks, or name those that stay boxes."""

import contextlib
import re
import sys
import warnings
from collections.abc import Iterator

from matplotlib import get_cachedir, rcParams
from matplotlib.font_manager import get_font_names

# The first of these that is installed is used for names in other scripts.
_OTHERS = (
    *(f"Noto Sans CJK {region}" for region in ("SC", "JP", "TC", "KR", "HK")),
    *("Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "IPAGothic"),
    *("PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Arial Unicode MS", "Unifont"),
)
_MISSING = re.compile(r"Glyph (\d+) .*missing from")


def list_families() -> list[str]:
    """Return matplotlib's usual fonts, then an installed one with more letters, if any."""
    there = set(get_font_names())
    return [*rcParams["font.family"], *[name for name in _OTHERS if name in there][:1]]


@contextlib.contextmanager
def naming_boxes() -> Iterator[None]:
    """Say on stderr, in one line, which letters drawn in this context came out as boxes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", _MISSING.pattern)
        yield
    missing = {}
    for found in caught:
        match = _MISSING.match(str(found.message))
        if match is None:
            warnings.warn_explicit(found.message, found.category, found.filename, found.lineno)
        else:
            missing[chr(int(match[1]))] = None
    if missing:
        print(
            f"note: no font here has {' '.join(missing)}: figures show boxes in their place; "
            f"install {_OTHERS[0]} or the like, and delete {get_cachedir()}/fontlist-*.json, "
            "matplotlib's list of installed fonts",
            file=sys.stderr,
        )
