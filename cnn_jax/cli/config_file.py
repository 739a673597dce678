"""Loads the config file of a command line and checks the names of its overrides.

absl and ml_collections load the file again when they parse the flags. They hide an
error in the file in the text of another error, so this module loads it first.
"""

import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from cnn_jax import networks
from cnn_jax.cli.explain import explain
from cnn_jax.cli.overrides import accept_none
from cnn_jax.config import check, is_field, unknown_field
from cnn_jax.errors import InputError

CONFIGS = Path(__file__).parents[1] / "configs"
CONFIG_OF_RUN, CONFIG_OF_MODEL = CONFIGS / "workdir.py", CONFIGS / "pretrained.py"


def candidates(file: str) -> list[Path]:
    """Lists the paths at which a relative config file is looked for.

    They are in the current folder, the clone, and the configs of the package. In the
    package, 'lenet.py' and 'configs/lenet.py' are the same.
    """
    name = file.removeprefix("./").removeprefix("configs/")
    clone = CONFIGS.parents[1]
    paths = [Path(file)] + [clone / file] * (clone / "main.py").exists()
    return [*paths, CONFIGS / name]


def with_found_config(argv: list[str]) -> list[str]:
    """Replaces a config file that is not in the current folder by one of `candidates`.

    Raises InputError, which says where it looked, if there is none.
    """
    sources = flag_values(argv, "config")
    file, colon, variant = sources[-1].partition(":") if sources else ("", "", "")
    if not file or Path(file).exists() or Path(file).is_absolute():
        return argv
    looked = candidates(file)
    for path in looked:
        if path.is_file():
            # Keep its position: ml_collections needs it before the overrides.
            return re.sub(rf"^(--?config[=\n]){re.escape(sources[-1])}$",
                          lambda match: f"{match[1]}{path}{colon}{variant}",
                          "\n".join(argv), flags=re.MULTILINE).split("\n")
    raise InputError(f"--config={sources[-1]}: no such config file; looked for "
                     f"{', '.join(map(str, looked))}{configs_beside(looked)}")


def import_from_here(argv: list[str]) -> None:
    """Lets MODULE:CLASS be found in the current folder and beside the config file."""
    files = [source.partition(":")[0] for source in flag_values(argv, "config")]
    folders = [Path.cwd(), *(Path(file).absolute().parent for file in files)]
    sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]


def flag_values(argv: list[str], name: str) -> list[str]:
    """Returns every VALUE of --name=VALUE and --name VALUE."""
    return re.findall(rf"^--?{name}[=\n](.*)$", "\n".join(argv), re.MULTILINE)


AUTO = r"--?config\.optimizer\.learning_rate[=\n]auto"


def without_auto_rate(argv: list[str]) -> tuple[list[str], bool]:
    """Removes --config.optimizer.learning_rate=auto; tells whether it was there.

    The field takes only a number, which `lr_find.with_found_rate` sets later.
    """
    text = "\n".join(argv)
    without = re.sub(rf"^{AUTO}(\n|$)", "", text, flags=re.MULTILINE).rstrip("\n")
    return without.split("\n"), without != text


def overridden(argv: list[str]) -> list[str]:
    """Returns every FIELD of --config.FIELD=VALUE and --noconfig.FIELD."""
    return re.findall(r"^--?(?:no)?config\.([\w.]+)", "\n".join(argv), re.MULTILINE)


def with_config_of_run(argv: list[str]) -> list[str]:
    """Adds the config of --model or --workdir if fields are set without --config."""
    if not overridden(argv) or flag_values(argv, "config"):
        return argv
    for flag, file in (("model", CONFIG_OF_MODEL), ("workdir", CONFIG_OF_RUN)):
        if values := flag_values(argv, flag):
            return [argv[0], f"--config={file}:{values[-1]}", *argv[1:]]
    return argv


def check_config(argv: list[str]) -> None:
    """Raises InputError if the config cannot be loaded or lacks an overridden field."""
    sources, fields = flag_values(argv, "config"), overridden(argv)
    for name in fields:
        if not is_field(name):
            raise InputError(
                f"config.{name}: no such field; did you mean the flag --{name}?"
                if name in flags.FLAGS else unknown_field(name))
    if not sources:
        return
    config = load(sources[-1])
    for name in fields:
        if not has_field(config, name):
            raise InputError(
                f"config.{name}: --config={sources[-1]} does not have this field; "
                "cnn_jax/config/fields.py has all fields, and configs/network.py:NAME "
                "also those of a network")


def config_of(source: str, overrides: Sequence[str]) -> ConfigDict:
    """Makes the config of --config=SOURCE and --config.FIELD=VALUE, and checks it.

    overrides: 'FIELD=VALUE', ...
    """
    argv = ["", f"--config={source}", *(f"--config.{text}" for text in overrides)]
    argv, _ = without_auto_rate(with_found_config(argv))
    import_from_here(argv)
    check_config(argv)
    accept_none()
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except flags.Error as error:
        raise InputError(explain(error)) from error
    drop_foreign_fields(values.config, argv)
    check(values.config)
    return values.config


def drop_foreign_fields(config: ConfigDict, argv: list[str]) -> list[str]:
    """Removes the fields of a config file's network if a flag names another network.

    Variants of one class share their fields and keep them, and fields that the command
    line sets stay. Returns the names of the fields that were removed.
    """
    fields, sources = overridden(argv), flag_values(argv, "config")
    if "model.name" not in fields or not sources:
        return []
    names = load(sources[-1]).model.name, config.model.name
    try:
        before, now = (networks.find(name).constructor for name in names)
    except ValueError:  # `config.check` says which names there are
        return []
    foreign = [field for field in config.model.fields
               if before is not now and f"model.fields.{field}" not in fields]
    with config.unlocked():
        for field in foreign:
            del config.model.fields[field]
    return foreign


def has_field(config: ConfigDict, name: str) -> bool:
    """Tells whether a config has a field, such as 'data.name'."""
    for key in name.split("."):
        if not isinstance(config, ConfigDict) or key not in config:
            return False
        config = config[key]
    return True


def load(source: str) -> ConfigDict:
    """Loads FILE or FILE:VARIANT. Raises InputError for any error in the file."""
    try:
        config = ConfigFileFlagParser("config").parse(source)
        config.is_locked  # raises OSError if the file could not be read
        return config
    except OSError as error:
        file = Path(source.partition(":")[0])
        raise InputError(f"--config={source}: no such config file"
                         f"{configs_beside([file])}") from error
    except SyntaxError as error:
        raise InputError(f"--config={source} is not Python: {error}") from error
    except Exception as error:  # a config file is Python: it may raise anything
        cause: BaseException = error
        if isinstance(error, (TypeError, ValueError)) and error.__context__:
            cause = error.__context__  # what ml_collections put into its own text
        if isinstance(cause, InputError):
            raise cause from error
        raise InputError(f"--config={source} failed{describe_failure(cause, source)}"
                         ) from error


def describe_failure(error: BaseException, source: str) -> str:
    """Returns ' at FILE:LINE: TYPE: MESSAGE' for an error inside a config file.

    For a ValueError of this package's own configs, such as an unknown variant, it is
    ': MESSAGE'.
    """
    file = Path(source.partition(":")[0]).resolve()
    reason = " ".join(str(error).split())[:200]
    if isinstance(error, ValueError) and file.is_relative_to(CONFIGS.resolve()):
        return f": {reason}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if Path(frame.filename).resolve() == file]
    line = f" at {file.name}:{lines[-1]}" if lines else ""
    return f"{line}: {type(error).__name__}: {reason}"


def config_names(folder: Path) -> list[str]:
    """Lists the files in a folder that define get_config, without workdir.py."""
    return sorted(path.name for path in folder.glob("*.py")
                  if path.name != CONFIG_OF_RUN.name
                  and b"def get_config(" in path.read_bytes())


def configs_beside(files: list[Path]) -> str:
    """Lists the config files in the folders of files that do not exist."""
    for folder in (file.parent for file in files):
        if names := config_names(folder):
            return f"; {folder} holds {', '.join(names[:12])}"
    return ""
