"""Colours as custom properties: two ramps that stay apart in lightness, light and dark."""

from __future__ import annotations

STEPS = 11
"""Classes of a ramp: 0 %, 10 %, … 100 %, each the nearest to its value."""

DARK_TEXT = "#000000"
LIGHT_TEXT = "#ffffff"

RAMPS: dict[str, dict[str, tuple[str, ...]]] = {
    "risk": {
        "light": ("#fbf3e8", "#f4cfa2", "#e19050", "#b4551c", "#6d260a"),
        "dark": ("#262422", "#54361f", "#95561f", "#dc8f42", "#ffdcae"),
    },
    "share": {
        "light": ("#edf3f9", "#b3d0ea", "#66a0d2", "#2467a4", "#0a335e"),
        "dark": ("#20252b", "#1f4263", "#2f72a9", "#6fb1e6", "#d3eaff"),
    },
}
"""Stops of each ramp from 0 to 1; `risk` for attack success, `share` for overlap."""

INKS: dict[str, dict[str, str]] = {
    "light": {
        "paper": "#fbfaf7", "card": "#ffffff", "ink": "#1d1f23", "soft": "#5a5f68",
        "line": "#d9d6cf", "grid": "#eceae4", "link": "#0b5394",
        "base": "#60666f", "aligned": "#0b5fa5", "random": "#a8500a", "suppressed": "#8a2272",
        "zero": "#0f6b60", "good": "#0b5fa5", "bad": "#a03a06", "empty": "#efede8",
    },
    "dark": {
        "paper": "#131519", "card": "#1a1d22", "ink": "#e9e7e2", "soft": "#a7adb5",
        "line": "#363b42", "grid": "#262a30", "link": "#84c1ff",
        "base": "#b4bac2", "aligned": "#6db7ff", "random": "#f0a560", "suppressed": "#ec95d2",
        "zero": "#62d2c3", "good": "#6db7ff", "bad": "#ffa26b", "empty": "#24282d",
    },
}  # fmt: skip
"""Ink and surface colours; every ink reads on `paper` and `card` at 4.5 : 1 or better."""


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of `#rrggbb`."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def ramp(name: str, theme: str) -> list[str]:
    """`STEPS` colours of a ramp, linear between its stops."""
    stops = RAMPS[name][theme]
    colours = []
    for step in range(STEPS):
        place = step / (STEPS - 1) * (len(stops) - 1)
        index = min(int(place), len(stops) - 2)
        pairs = zip(rgb(stops[index]), rgb(stops[index + 1]), strict=True)
        mixed = [round(a + (b - a) * (place - index)) for a, b in pairs]
        colours.append("#" + "".join(f"{part:02x}" for part in mixed))
    return colours


def luminance(colour: str) -> float:
    """Relative luminance, 0 to 1, as WCAG 2.2 defines it."""
    parts = [part / 255 for part in rgb(colour)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    """Contrast ratio of two colours, 1 to 21, as WCAG 2.2 defines it."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def text_on(colour: str) -> str:
    """The one of two text colours that reads better on `colour`."""
    return max(DARK_TEXT, LIGHT_TEXT, key=lambda text: contrast(text, colour))


def _variables(theme: str) -> str:
    lines = [f"--{name}:{colour};" for name, colour in INKS[theme].items()]
    for name in RAMPS:
        for step, colour in enumerate(ramp(name, theme)):
            lines.append(f"--{name}{step}:{colour};--{name}{step}t:{text_on(colour)};")
    return "".join(lines)


def palette_css(dark: bool = True) -> str:
    """Custom properties, and the ramp classes that use them; without `dark`, light alone.

    Printing is always light.
    """
    steps = "".join(
        f".{name}{step} rect{{fill:var(--{name}{step})}}"
        f".figure .{name}{step} text{{fill:var(--{name}{step}t)}}\n"
        for name in RAMPS
        for step in range(STEPS)
    )
    css = f":root{{{_variables('light')}}}\n"
    if dark:
        night = f":root{{color-scheme:dark;{_variables('dark')}}}"
        css += f"@media screen and (prefers-color-scheme:dark){{{night}}}\n"
    return css + steps
