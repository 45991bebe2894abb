"""Text and numbers of the report, as markup."""

import html
import math
import re

DASH = "\N{EN DASH}"  # for a number that is missing
_ARROWS = {"higher": "↑", "lower": "↓"}
_DECIMALS = {"dB": 2, "%": 1, "pixels": 2}  # of a unit's numbers; else 3


def escape(value: object) -> str:
    """Escapes text; what stands between backquotes is shown as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(str(value)))


def label(about: dict) -> str:
    """A metric's name, its unit, and an arrow to where it is better."""
    unit = f"<span>[{escape(about['unit'])}]</span> " if about.get("unit") else ""
    arrow = _ARROWS[about["better"]]
    return f'{escape(about["label"])} <span class="together">{unit}{arrow}</span>'


def bold(number: str, best: bool) -> str:
    """A number as it is printed, bold if it is the best."""
    return f"<b>{number}</b>" if best else number


def callout(content: str) -> str:
    """What should not be overlooked."""
    return f'<div class="callout">{content}</div>'


def decimal(value: float | None, unit: str | None) -> str:
    """A number with the digits of its unit; a dash for one that is missing."""
    if value is None or not math.isfinite(value):
        return DASH
    if unit == "FVD":
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"
    return f"{value:,.{_DECIMALS.get(unit, 3)}f}"


def significant(value: float) -> str:
    """A number of any size, with four digits that count."""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
