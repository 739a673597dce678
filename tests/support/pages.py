"""Reads the pages of the book: their code cells, and the files that they show."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def cells(page: Path) -> list[str]:
    """Returns the code cells of a page, without their tags."""
    blocks = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", page.read_text(),
                        re.MULTILINE | re.DOTALL)
    return [re.sub(r"\A(:.*\n)*\n*", "", block) for block in blocks]


def shown_file(page: str, name: str) -> str:
    """Returns the cell or the Python block of a how-to page that begins with '# NAME'.
    """
    block, = re.findall(
        rf"^```(?:python|\{{code-cell\}} ipython3)\n(# {re.escape(name)}\n.*?)^```$",
        (DOCS / "howto" / page).read_text(), re.MULTILINE | re.DOTALL)
    return block
