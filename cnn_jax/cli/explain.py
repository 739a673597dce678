"""Turns absl's errors about a command line into one line."""

from absl import flags

from cnn_jax.config import is_field


def explain(error: flags.Error) -> str:
    """Says which flag is unknown, or which values a flag allows."""
    line = str(error).partition("\n")[0]
    if isinstance(error, flags.UnrecognizedFlagError):
        name = error.flagname
        if is_field(name):
            return f"--{name} is a field of configs: --config.{name}=VALUE"
    if isinstance(error, flags.IllegalFlagValueError):
        # absl has only the text "flag --NAME=VALUE: what the parser raised".
        flag = line.removeprefix("flag --").partition(": ")[0]
        name = flag.partition("=")[0]
        if name in flags.FLAGS and (allowed := flags.FLAGS[name].parser.syntactic_help):
            return f"--{flag} is not allowed: must be {allowed}"
    return line
