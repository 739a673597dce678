"""Memory in 2 MB pages that is kept: training steps on a Linux CPU gain from it.

XLA takes its working memory at every call and gives it back. The system fills pages
with zeros before it hands them out anew, and small ones are touched one by one: that
costs more than the arithmetic of some layers. glibc reads its settings before a program
starts, so `main.py` starts itself anew, once, with those below in the environment: huge
pages, and one heap that does not shrink. CNN_JAX_HUGE_PAGES=0 in the environment
prevents it, and so does a GLIBC_TUNABLES of the user's own. Elsewhere than on Linux
nothing happens.
"""

import os
import sys

HUGE_PAGES = "glibc.malloc.hugetlb=1"
TUNABLES = ":".join([
    HUGE_PAGES,
    "glibc.malloc.mmap_max=0",                  # large blocks too are of the heap
    "glibc.malloc.arena_max=1",                 # of all threads
    f"glibc.malloc.trim_threshold={1 << 40}"])  # bytes, before any are given back


def use_huge_pages() -> None:
    """Restarts the program with `TUNABLES`, where that can help; else returns."""
    if (sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ
            or os.environ.get("CNN_JAX_HUGE_PAGES") == "0"):
        return
    os.environ["GLIBC_TUNABLES"] = TUNABLES
    os.execv(sys.executable, sys.orig_argv)
