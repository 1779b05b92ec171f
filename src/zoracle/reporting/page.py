"""Pages that are one HTML file: nothing is loaded from elsewhere, and nothing runs in them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from zoracle import __version__
from zoracle.errors import require
from zoracle.results.metrics import DEFINITIONS
from zoracle.storage.files import write_text


def check_extra() -> None:
    """Make sure that pages and figures can be drawn.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed; the message names the extra.
    """
    require("jinja2", "report")
    require("matplotlib", "report")


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill in a template and write the page.

    Args:
        path: the HTML file.
        template: name of a file in the folder of templates, "run" or "experiment".
        values: what it shows, beside the definitions of the words and the version.

    Raises:
        MissingExtraError: jinja2 is not installed; the message names the extra.
        InputError: the file cannot be written.
    """
    jinja2 = require("jinja2", "report")
    folder = files("zoracle.reporting") / "templates"
    names = [entry.name for entry in folder.iterdir() if entry.name.endswith(".jinja")]
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({name: (folder / name).read_text(encoding="utf-8") for name in names}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(f"{template}.html.jinja")
    write_text(path, page.render(definitions=DEFINITIONS, version=__version__, **values))
