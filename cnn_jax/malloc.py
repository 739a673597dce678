"""Memory in 2 MB pages: whole training steps on a Linux CPU gain from it.

XLA takes and gives back its working memory at every call, and first touching it page by
page costs more than the arithmetic of some layers. glibc reads its setting before a
program starts, so `main.py` starts itself anew, once, with

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1

in the environment. CNN_JAX_HUGE_PAGES=0 in the environment prevents it, and so does a
GLIBC_TUNABLES of the user's own. Elsewhere than on Linux nothing happens.
"""

import os
import sys


def use_huge_pages() -> None:
    """Restarts the program with huge pages, where that can help; else returns."""
    if (sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ
            or os.environ.get("CNN_JAX_HUGE_PAGES") == "0"):
        return
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, sys.orig_argv)
