"""Extends Sphinx for a book in two languages: docs/ is English, docs/zh/ is Chinese.

A page zh/NAME is the Chinese page of NAME, if there is one. Both have the same code
cells, which are executed once.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish
from sphinx.transforms import SphinxTransform

CHINESE = "zh/"


class ChinesePrompts(SphinxTransform):
    """Translates what opens and closes a hidden answer."""

    default_priority = 5

    def apply(self, **options: object) -> None:
        if self.env.docname.startswith(CHINESE):
            for node in self.document.findall(nodes.container):
                if "prompt_show" in node:
                    node["prompt_show"], node["prompt_hide"] = "显示答案", "隐藏答案"


def add_language(app: Sphinx, page: str, template: str, context: dict[str, Any],
                 doctree: nodes.document | None) -> None:
    """Declares the language of a page, and links to the page in the other language."""
    if page.startswith(CHINESE):
        context["language"] = "zh-CN"
        other, language, title = page.removeprefix(CHINESE), "en", "English"
    else:
        other, language, title = CHINESE + page, "zh-CN", "中文"
    if {page, other} <= app.env.found_docs:
        context["body"] = (
            f'<p class="book-language"><a href="{context["pathto"](other)}" '
            f'lang="{language}" hreflang="{language}">{title}</a></p>{context["body"]}')


class SearchEnglishAndChinese(SearchEnglish):
    """Indexes English words, and every two neighbouring characters of Chinese text.

    Chinese has no spaces between words. Sphinx would index a whole clause as one word.
    """

    lang = "en_zh"
    js_splitter_code = r"""
var splitQuery = query => (query.match(
  /[\u4e00-\u9fff]+|(?:(?![\u4e00-\u9fff])[\p{Letter}\p{Number}_])+/gu
) || []).flatMap(word => /[\u4e00-\u9fff]{3}/.test(word)
  ? Array.from({length: word.length - 1}, (_, i) => word.slice(i, i + 2)) : [word]);
"""

    def split(self, input: str) -> list[str]:
        words = []
        for word in re.findall(r"[\u4e00-\u9fff]+|[^\W\u4e00-\u9fff]+", input):
            if len(word) > 2 and "\u4e00" <= word[0] <= "\u9fff":
                words += [word[i:i + 2] for i in range(len(word) - 1)]
            else:
                words.append(word)
        return words


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(ChinesePrompts)
    app.connect("html-page-context", add_language)
    app.add_search_language(SearchEnglishAndChinese)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
