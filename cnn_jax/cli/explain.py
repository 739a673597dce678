"""Turns errors of libraries into one line."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator

from absl import flags

from cnn_jax.config import ALIASES, is_field
from cnn_jax.errors import fail, first_line
from cnn_jax.user_code import source_line, user_frames


EXTRAS = {"cuda": "cuda12", "gpu": "cuda12", "tpu": "tpu"}  # of jax, for a platform


def explain(error: flags.Error) -> str:
    """Says which flag is unknown, or which values a flag allows."""
    line = str(error).partition("\n")[0]
    if isinstance(error, flags.UnrecognizedFlagError):
        name = error.flagname
        field = name if is_field(name) else ALIASES.get(name.replace("-", "_"))
        if field:
            return f"--{name} is a field of configs: --config.{field}=VALUE"
    if isinstance(error, flags.IllegalFlagValueError):
        # absl has only the text "flag --NAME=VALUE: what the parser raised".
        flag = line.removeprefix("flag --").partition(": ")[0]
        name = flag.partition("=")[0]
        if name in flags.FLAGS and (allowed := flags.FLAGS[name].parser.syntactic_help):
            return f"--{flag} is not allowed: must be {allowed}"
    return line


def out_of_memory(error: Exception) -> str | None:
    """Says what to do if an error of JAX or NumPy means that memory ran out, else None.
    """
    text = str(error)
    if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text):
        return None
    size = re.search(r"allocat\w* (?:([\d.,]+ ?[KMGT]?i?B)|([\d,]+) bytes)", text)
    amount = size and (size[1] or f"{int(size[2].replace(',', '')) / 2**30:,.1f} GiB")
    requested = f" ({amount} were requested)" if amount else ""
    return (f"out of memory{requested}: use a smaller config.batch_size, with "
            "config.optimizer.accumulate_steps to keep its effect, or "
            "config.model.remat=true, a smaller config.data.image_size, "
            "config.data.stream=true; for evaluation a smaller config.eval_batch_size")


def own_code(error: Exception) -> tuple[str, str] | None:
    """Returns (stack, message) of an error that the user's own code raised, else None.

    The stack has only the lines of the user's files. The message names the last one, or
    the field of the config that `cnn_jax.user_code.field_errors` has noted.
    """
    frames = user_frames(error)
    notes = [note for note in getattr(error, "__notes__", ())
             if note.startswith("config.")]
    if not frames and not notes:
        return None
    where = notes[0] if notes else source_line(error)
    return ("".join(traceback.format_list(frames)),
            f"{where}: your own code raised {type(error).__name__}: "
            f"{first_line(error)}")


def no_device(error: Exception) -> str | None:
    """Says what to do if JAX lacks the platform of JAX_PLATFORMS, else None."""
    platforms = os.environ.get("JAX_PLATFORMS")
    frames = traceback.extract_tb(error.__traceback__)
    if not platforms or not any(frame.filename.endswith("xla_bridge.py")
                            for frame in frames[-2:]):
        return None
    reason = first_line(error)
    extra = next((EXTRAS[name] for name in platforms.split(",") if name in EXTRAS), "")
    return (f"JAX_PLATFORMS={platforms}: JAX has no such device here"
            + f" ({reason})" * (reason != type(error).__name__)
            + ": unset it or set it to cpu, or install JAX for that device"
            + f", such as pip install 'jax[{extra}]'" * bool(extra))


@contextlib.contextmanager
def explained_errors() -> Iterator[None]:
    """Ends a command with one line if its block raises an error that has a known cause.
    """
    try:
        yield
    except Exception as error:
        if reason := out_of_memory(error):
            fail(reason, 1)
        if reason := no_device(error):
            fail(reason, 2)
        if own_error := own_code(error):
            print(own_error[0], end="", file=sys.stderr)
            fail(own_error[1], 2)
        raise
