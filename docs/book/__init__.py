"""What the book is built with: figures, tables, and an extension of Sphinx."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]  # of the repository


def measured_accuracy() -> dict[str, dict[str, Any]]:
    """Reads measured/accuracy/RESULTS.json: {experiment: its row}."""
    rows = json.loads((ROOT / "measured/accuracy/RESULTS.json").read_text())
    return {row["name"]: row for row in rows}


def mean_and_deviation(row: dict[str, Any]) -> str:
    """Formats the accuracy of a row as mean ± standard deviation (n)."""
    spread = "" if row["std"] is None else f" ± {row['std']:.4f}"
    return f"{row['mean']:.4f}{spread} ({row['n']})"
