"""The page's colors can be told from their background, in the light as in the dark."""

import re
from itertools import product
from pathlib import Path

import pytest

import habitus.report

CSS = (Path(habitus.report.__file__).parent / "assets" / "page.css").read_text()
THEMES = dict(zip(("light", "dark"), re.findall(r":root[^{]*\{([^}]*--bg[^}]*)\}", CSS), strict=True))


def luminance(color: str) -> float:
    """Relative luminance after WCAG 2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_colors_of_texts_and_marks_stand_out(theme: str) -> None:
    """WCAG 2: 4.5 for texts, 3 for marks; grey on grey is no report."""
    colors = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", THEMES[theme]))
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    for text, ground in product(("ink", "muted", "accent", "good", "bad", "even"), ("bg", "surface")):
        assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
    for number in range(8):
        assert contrast(colors[f"c{number}"], colors["surface"]) >= 3, number
