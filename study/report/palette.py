"""Colours and symbols of the report: Okabe-Ito, told apart by shape as well, with a dark counterpart for ink and paper.

Figures are drawn in the light colours; for dark mode the page swaps each colour named in DARK, exactly.
"""

INK = "#1b1b1f"
PAPER = "#ffffff"
GRID = "#dcdce2"
FAINT = "#84848e"
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
VERMILION, PURPLE, SKY = "#D55E00", "#CC79A7", "#56B4E9"

DARK = {INK: "#e9e9ee", PAPER: "#17171b", GRID: "#36363e", FAINT: "#9a9aa6", BLUE: "#3d9bd6"}
"""Light colour -> dark colour; the others keep at least 3:1 on both papers or carry an ink outline."""

KIND_COLOURS = {"student": BLUE, "twin": ORANGE, "teacher": GREEN}
KIND_SYMBOLS = {"student": "circle", "twin": "diamond", "teacher": "star"}
SERIES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, INK)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon", "triangle-down", "hexagon")
