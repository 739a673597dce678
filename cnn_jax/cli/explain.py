"""What absl raises for a command line, in one line."""

from absl import flags

from cnn_jax.config import is_field


def explain(error: flags.Error) -> str:
    """Says which flag is unknown, or what a flag may be."""
    line = str(error).partition("\n")[0]
    if isinstance(error, flags.UnrecognizedFlagError):
        name = error.flagname
        if is_field(name):
            return f"--{name} is a field of configs: --config.{name}=VALUE"
    if isinstance(error, flags.IllegalFlagValueError):
        # absl has no fields for these: "flag --NAME=VALUE: what int() or so raised".
        flag = line.removeprefix("flag --").partition(": ")[0]
        name = flag.partition("=")[0]
        if name in flags.FLAGS and (allowed := flags.FLAGS[name].parser.syntactic_help):
            return f"--{flag} is not allowed: must be {allowed}"
    return line
