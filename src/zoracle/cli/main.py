"""The entry point: what a user did wrong is one line and exit code 2, never a traceback."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module

import click

from zoracle import __version__
from zoracle.errors import InputError

_COMMANDS = {
    "attack": "zoracle.cli.attack",
    "compare": "zoracle.cli.compare",
    "demo": "zoracle.cli.demo",
    "optimizers": "zoracle.cli.optimizers",
    "train": "zoracle.cli.train",
    "train-target": "zoracle.cli.train_target",
    "tune": "zoracle.cli.tune",
}


class _Commands(click.Group):
    """Loads a command's module when it is asked for: torch takes seconds, and --version needs none of it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(_COMMANDS[cmd_name]).command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="zoracle")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; by default as many as torch takes.")
def cli(threads: int | None) -> None:
    """Learned zeroth-order optimization: minimise what you can only query."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 2 unusable input, 130 interrupted)."""
    warnings.showwarning = lambda message, *_, **__: _say("warning", str(message))
    try:
        cli.main(args=argv, prog_name="zoracle", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        _say("error", error.format_message())
        return 2
    except InputError as error:
        _say("error", str(error))
        return 2
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted", "what is done is kept; the same command with the same --out goes on")
        return 130
    except BrokenPipeError:
        return 0
    return 0


def _say(kind: str, message: str) -> None:
    line = " ".join(message.split())
    click.echo(f"zoracle: {kind}: {line}", err=True)


if __name__ == "__main__":
    sys.exit(main())
