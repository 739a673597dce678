"""Builds the book; see "The book" in CONTRIBUTING.md.

    python -m sphinx -W --keep-going -b html docs build/docs
"""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT)]
# For the kernels that execute the pages: they import the clone and docs/book, log
# nothing, and keep compiled programs, so that a second build is faster.
os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (DOCS, ROOT)))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / "build" / "programs"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cnn_jax  # noqa: E402

project = "cnn_jax"
author = "the authors of cnn_jax"
version = release = cnn_jax.__version__
copyright = "Apache-2.0"  # noqa: A001

extensions = ["myst_nb", "book.sphinx", "book.languages", "book.execution"]
exclude_patterns = ["book", "_static", "**.ipynb_checkpoints"]
source_suffix = {".md": "myst-nb"}
root_doc = "index"
nitpicky = True

# MyST: the links of GitHub (file.md#heading) work here too.
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "dollarmath"]
myst_heading_anchors = 4

# Every build executes the cells of every page that it reads; an exception is a warning.
# The outputs are kept within a build, for the page with the same cells in docs/zh; see
# docs/book/execution.py.
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "outputs")
nb_execution_timeout = 900  # seconds, for a cell
nb_execution_in_temp = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars
nb_render_markdown_format = "myst"
nb_code_prompt_show = "Show the answer"
nb_code_prompt_hide = "Hide the answer"

linkcheck_ignore = [r"http://127\.0\.0\.1"]
linkcheck_anchors = False  # many sites make them by a script

html_theme = "furo"
html_title = "cnn_jax"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = ["scroll.js"]
html_search_language = "en_zh"
html_math_renderer = "mathml"
# Pages open from the file system, where scripts may not read other pages.
html_show_search_summary = False
html_copy_source = False
html_show_copyright = False
html_last_updated_fmt = None
pygments_style = "default"  # every token has a contrast of 4.5 at least
pygments_dark_style = "github-dark"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#00609c",
                            "color-brand-content": "#00609c"},
    "dark_css_variables": {"color-brand-primary": "#6cc3f2",
                           "color-brand-content": "#6cc3f2"},
}
