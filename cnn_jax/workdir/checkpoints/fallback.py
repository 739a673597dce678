"""The best checkpoint that the end of a run needs."""

from pathlib import Path

from cnn_jax.workdir.progress import best_row


def best_checkpoint(folder: Path, history: list[dict], monitor: str) -> Path:
    """The best checkpoint up to the one in `folder`, or the latter itself where that
    is not there."""
    if not history:
        return folder
    best = folder.with_name(str(best_row(history, monitor)["step"]))
    return best if best.is_dir() else folder
