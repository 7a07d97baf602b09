"""Letters that matplotlib's own font lacks: from another font where one is here, else named."""

import contextlib
import re
import sys
import warnings
from collections.abc import Iterator

from matplotlib import get_cachedir, rcParams
from matplotlib.font_manager import get_font_names

# The first that is installed has what names of people's sweeps and levels are written in.
_OTHERS = (
    *(f"Noto Sans CJK {region}" for region in ("SC", "JP", "TC", "KR", "HK")),
    *("Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "IPAGothic"),
    *("PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Arial Unicode MS", "Unifont"),
)
_MISSING = re.compile(r"Glyph (\d+) .*missing from")


def list_families() -> list[str]:
    """Return matplotlib's usual fonts, and after them one of this machine that has more letters."""
    there = set(get_font_names())
    return [*rcParams["font.family"], *[name for name in _OTHERS if name in there][:1]]


@contextlib.contextmanager
def naming_boxes() -> Iterator[None]:
    """Say on stderr, in one line, which letters of what is drawn meanwhile came out as boxes."""
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
            f"install {_OTHERS[0]} or the like, and delete {get_cachedir()}/fontlist-*.json, where "
            "matplotlib keeps which there are",
            file=sys.stderr,
        )
