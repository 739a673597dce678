"""Extends Sphinx: tables from the code, MathML, and links to the repository's files."""

import os

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator

from book import ROOT, tables

# Documents of the repository that are pages of the book, from its root.
PAGES = {"README.md": "index", "CONTRIBUTING.md": "explanation/contributing",
         "SECURITY.md": "explanation/trust",
         "measured/accuracy/RESULTS.md": "results/accuracy",
         "measured/speed/README.md": "results/speed",
         "measured/reliability/RELIABILITY.md": "results/reliability",
         "measured/accelerators/README.md": "results/accelerators"}


class CodeTable(SphinxDirective):
    """Inserts the Markdown that a function of `book.tables` makes from the code."""

    required_arguments = 1  # the name of the function

    def run(self) -> list[nodes.Node]:
        text = getattr(tables, self.arguments[0])()
        if "\n## " in text and not text.startswith("## "):
            raise self.error("text before the first heading would be lost")
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class RepositoryLinks(SphinxTransform):
    """Points links to documents of the repository at their pages."""

    default_priority = 5

    def apply(self, **options: object) -> None:
        for node in self.document.findall(addnodes.pending_xref):
            name = os.path.relpath(node["reftarget"], ROOT) + ".md"
            if node["refdomain"] == "doc" and name in PAGES:
                node["reftarget"] = PAGES[name]


def visit_math(translator: HTML5Translator, node: nodes.math) -> None:
    """Writes a formula in a line as MathML, which browsers draw without a script."""
    translator.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def visit_math_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Writes a formula of its own line; a wide one scrolls on a phone."""
    translator.body.append('<div class="math">'
                           + tex2mathml(node.astext(), as_block=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("code-table", CodeTable)
    app.add_transform(RepositoryLinks)
    app.add_html_math_renderer(
        "mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
