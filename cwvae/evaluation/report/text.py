"""Text and numbers of the report, as markup."""

import html
import math
import re
from collections.abc import Mapping

from cwvae.evaluation.results import ARROWS

DASH = "\N{EN DASH}"  # for a missing number
_DECIMALS = {"dB": 2, "%": 1, "pixels": 2}  # decimals of a unit's numbers; others have 3


def escape(value: object) -> str:
    """Escapes text; text in backquotes becomes code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(str(value)))


def label(about: dict) -> str:
    """Returns a metric's name, unit, and an arrow in the direction of better values."""
    unit = f"<span>[{escape(about['unit'])}]</span> " if about.get("unit") else ""
    arrow = ARROWS[about["better"]]
    return f'{escape(about["label"])} <span class="together">{unit}{arrow}</span>'


def scrollable(content: str, name: str, kind: str = "scroll") -> str:
    """Returns markup that scrolls if it is too wide, and that the keyboard reaches."""
    return f'<div class="{kind}" role="region" aria-label="{name}" tabindex="0">{content}</div>'


def terms(texts: Mapping[str, str], attributes: str = "") -> str:
    """Returns a list of terms and texts."""
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in texts.items())
    return f"<dl{attributes}>{items}</dl>"


def decimal(value: float | None, unit: str | None) -> str:
    """Returns a number with its unit's decimals, or a dash if it is missing."""
    if value is None or not math.isfinite(value):
        return DASH
    if unit == "FVD":
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"
    return f"{value:,.{_DECIMALS.get(unit, 3)}f}"


def significant(value: float) -> str:
    """Returns a number with four significant digits."""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
