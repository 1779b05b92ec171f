"""`--resume`: the options of a run are stored in its folder, so that naming the folder is enough to continue it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from zoracle.blackboxes.v2_protocol import clip
from zoracle.errors import InputError
from zoracle.storage.files import exists, read_json
from zoracle.storage.runfolder import COMMAND

F = TypeVar("F", bound=Callable[..., Any])

#: Options that say nothing of the run: where it is kept.
_FREE = ("out", "resume")
#: Options that may be others when it continues; those of the run where none are given.
_MAY_DIFFER = ("batch", "workers")
#: What a folder may not say by itself: which secret is sent to the server that it names.
_SECRET = "target_api_key_env"


def resume_option() -> Callable[[F], F]:
    """The option that continues with the run of a folder."""
    return click.option(
        "--resume", is_flag=True, help="Continue the run in --out; its options are read from the folder."
    )


def settled(ctx: click.Context) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that a run goes by: those given, or with ``--resume`` those of the folder.

    Returns:
        The options, and what is to be kept of them in the folder.

    Raises:
        InputError: there is no run to continue with, or an option differs from the run's.
    """
    options = {name: value for name, value in ctx.params.items() if name != "resume"}
    out = options["out"]
    if ctx.params["resume"]:
        options = _agreed(ctx, options, out)
    kept = {name: _kept(name, value) for name, value in options.items() if name not in _FREE}
    return options, {"command": ctx.info_name, "options": kept}


def _agreed(ctx: click.Context, options: dict[str, Any], out: Path) -> dict[str, Any]:
    """The options of the run in a folder, and those given beside them where they are the same."""
    if not (out / COMMAND).is_file():
        raise InputError(f"{out} contains no {COMMAND}, so there is no run to resume; pass the folder of a run")
    there = read_json(out / COMMAND)
    kept = there.get("options") if isinstance(there, dict) else None
    if not isinstance(kept, dict) or there.get("command") != ctx.info_name:
        raise InputError(f"{out / COMMAND} is not from `zoracle {ctx.info_name}`; pass the folder of such a run")
    target = kept.get("target")
    if isinstance(target, str):
        click.echo(f"the target of this run is {clip(target)}")
    secret = kept.get(_SECRET)
    if secret is not None and ctx.get_parameter_source(_SECRET) is not ParameterSource.COMMANDLINE:
        raise InputError(
            f"the run in {out} sends the key in the environment variable {clip(str(secret), 40)} to "
            f"{clip(str(target))}; to allow it, pass --api-key-env {clip(str(secret), 40)} again"
        )
    agreed = dict(options)
    for parameter in ctx.command.params:
        name = str(parameter.name)
        if name in _FREE or name not in kept:
            continue
        value = parameter.process_value(ctx, kept[name]) if kept[name] is not None else None
        given = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name in _MAY_DIFFER:
            continue
        if given and _kept(name, options[name]) != kept[name]:
            raise InputError(
                f"{parameter.opts[0]} is {options[name]}, but {kept[name]} in the run in {out}; "
                "leave it out to resume, or choose another folder"
            )
        agreed[name] = value
    return agreed


def _kept(name: str, value: Any) -> Any:
    """An option as it is kept; a file that a target or data are in is told in full as well."""
    if name in ("target", "data") and isinstance(value, str):
        file, colon, rest = value.partition(":") if value.partition(":")[0].endswith(".py") else (value, "", "")
        return f"{Path(file).absolute()}{colon}{rest}" if exists(Path(file)) else value
    return _plain(value)


def _plain(value: Any) -> Any:
    """An option as a JSON value; a path is told in full, since a run may be resumed from elsewhere."""
    if isinstance(value, Path):
        return str(value.absolute())
    return [_plain(one) for one in value] if isinstance(value, tuple) else value
