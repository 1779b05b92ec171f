"""The entry point: user errors print one line and exit with code 2, never a traceback."""

from __future__ import annotations

import os
import re
import sys
import warnings
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import NamedTuple

import click

from zoracle import __version__
from zoracle.errors import InputError, printable, shortened


class _Entry(NamedTuple):
    """A command: where it is, and what the list of commands says of it."""

    module: str
    summary: str


_COMMANDS = {
    "attack": _Entry("zoracle.cli.attack", "Attack the images of a task, or your own."),
    "compare": _Entry("zoracle.cli.compare", "Run several optimizers on the same problems."),
    "demo": _Entry("zoracle.cli.demo", "Attack a digit classifier; takes a minute, downloads nothing."),
    "finetune": _Entry("zoracle.cli.finetune", "Fine-tune a learned optimizer on another task."),
    "minimize": _Entry("zoracle.cli.minimize", "Minimise your own function, module:function."),
    "optimizers": _Entry("zoracle.cli.optimizers", "List the available optimizers."),
    "reproduce": _Entry("zoracle.cli.reproduce", "Run the paper's experiments."),
    "train": _Entry("zoracle.cli.train", "Train a learned optimizer."),
    "train-target": _Entry("zoracle.cli.train_target", "Train the network that a task attacks."),
    "tune": _Entry("zoracle.cli.tune", "Tune step sizes on validation problems."),
}


class _Commands(click.Group):
    """Loads a command's module when it is run: torch takes seconds, and --help needs none of it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            close = get_close_matches(cmd_name, _COMMANDS, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise InputError(f"command {cmd_name!r} is unknown; {hint}expected one of {', '.join(sorted(_COMMANDS))}")
        command: click.Command = import_module(_COMMANDS[cmd_name].module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name].summary) for name in self.list_commands(ctx)])


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="zoracle")
@click.option("--threads", type=click.IntRange(1, 4096), help="Number of CPU threads; default: torch's.")
@click.pass_context
def cli(ctx: click.Context, threads: int | None) -> None:
    """Learned zeroth-order optimization: minimise functions that you can only evaluate."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
    elif threads is not None:
        import torch

        torch.set_num_threads(threads)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 2 unusable input, 130 interrupted).

    Under torchrun the first process runs the command and the others share its evaluations; all of them train.
    """
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say("warning", str(message))
        if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun started this process
            from zoracle.cli import torchrun

            given = sys.argv[1:] if argv is None else argv
            name = next((part for part in given if part in _COMMANDS), None)
            if name == "train":
                return torchrun.together(partial(_run, argv))
            return torchrun.shared(partial(_run, argv), None if name is None else _COMMANDS[name].module)
        return _run(argv)


def _run(argv: list[str] | None, processes: object = None) -> int:
    try:
        code = cli.main(args=argv, prog_name="zoracle", standalone_mode=False, obj=processes)
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        say("error", error.format_message())
        return 2
    except InputError as error:
        say("error", _as_options(str(error), sys.argv[1:] if argv is None else argv))
        return 2
    except MemoryError as error:
        say("error", f"there is not enough memory ({error}); use smaller sizes, or a smaller --batch")
        return 2
    except (KeyboardInterrupt, click.Abort):
        say("interrupted", "finished work is saved in --out; run the same command to continue")
        return 130
    except BrokenPipeError:
        # Whoever read us has left. Nothing more may be written, by Python's own flush at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a name that no file can have
        where = "" if error.filename is None else f"{error.filename}: "
        say("error", f"{where}{error.strerror or error}; fix this, then run the same command again")
        return 2
    return code if isinstance(code, int) else 0


def _as_options(message: str, argv: list[str]) -> str:
    """The message of a Python call, with its arguments named as the options of the command that was run."""
    name = next((part for part in argv if part in _COMMANDS), None)
    if name is None:
        return message
    flags = {
        str(parameter.name): parameter.opts[-1]
        for parameter in import_module(_COMMANDS[name].module).command.params
        if parameter.opts[-1].startswith("--")
    }
    for argument, flag in flags.items():
        if "_" in argument:
            message = re.sub(rf"(?<![\w-]){argument}\b", flag, message)
        message = re.sub(rf"^{argument} (is|has|are|takes) ", rf"{flag} \1 ", message)
    return message


def say(kind: str, message: str) -> None:
    """Write one line of this kind to standard error; of what somebody gave by the thousand characters, the ends."""
    line = shortened(" ".join(printable(message).split()), 2000)
    click.echo(f"zoracle: {kind}: {line}", err=True)


if __name__ == "__main__":
    sys.exit(main())
