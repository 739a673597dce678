"""Makes glibc keep freed memory, in huge pages: training on a Linux CPU is faster.

XLA allocates its working memory at every call and frees it afterwards. By default,
glibc returns large blocks to the kernel. When they are allocated again, the kernel
clears their pages of 4 KiB, one page fault after the other. That takes longer than the
arithmetic of some layers. With `TUNABLES`, glibc keeps the memory and uses pages of
2 MiB.

glibc reads `GLIBC_TUNABLES` only when a program starts. So the command line calls
`use_huge_pages` before its other imports, which restarts it once with the variable set.
Set `CNN_JAX_HUGE_PAGES=0`, or a `GLIBC_TUNABLES` of your own, to prevent the restart.
"""

import os
import sys

HUGE_PAGES = "glibc.malloc.hugetlb=1"
TUNABLES = ":".join([
    HUGE_PAGES,
    "glibc.malloc.mmap_max=0",  # large blocks also come from the heap
    "glibc.malloc.arena_max=1",  # all threads share one heap
    f"glibc.malloc.trim_threshold={1 << 40}"])  # bytes; so the heap never shrinks


def use_huge_pages() -> None:
    """Restarts this program with `TUNABLES`, once and only on Linux."""
    if (sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ
            or os.environ.get("CNN_JAX_HUGE_PAGES") == "0"):
        return
    os.environ["GLIBC_TUNABLES"] = TUNABLES
    os.execv(sys.executable, sys.orig_argv)
