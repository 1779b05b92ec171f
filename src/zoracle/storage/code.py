"""User-defined classes and functions by name: ``my_file.py:Name`` or ``package.module:name``."""

from __future__ import annotations

import hashlib
import re
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from zoracle.errors import InputError, failure

_FORM = re.compile(r"(?P<file>.+\.py)?(?(file)|[^\W\d][\w.]*):[^\W\d][\w.]*")
#: Prefix of the names of modules read from files, followed by the start of the file's SHA-256.
_PREFIX = "zoracle_file_"


def is_named(text: str) -> bool:
    """Whether a text has the form ``my_file.py:Name`` or ``package.module:name``."""
    return _FORM.fullmatch(text) is not None


def load_named(name: str) -> Any:
    """The object that a file or module defines under a name.

    Args:
        name: ``my_file.py:Name``, a path and a name in that file; or ``package.module:name``, which is imported with
            the working directory searched first, as by ``python -m``.

    Raises:
        InputError: the name has another form, the file or module cannot be read or raises, or defines no such thing.
    """
    if not is_named(name):
        raise InputError(f"{name!r} does not name code; expected my_file.py:Name or package.module:name")
    where, _, attribute = name.rpartition(":")
    found: Any = _file(Path(where), name) if where.endswith(".py") else _module(where, name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InputError(f"{name!r}: {where} has no {attribute}; expected a name that it defines")
        found = getattr(found, part)
    return found


def load_subclass(name: str, base: type) -> Any:
    """As :func:`load_named`, for a class that inherits from a base class.

    Raises:
        InputError: as there, or it is not such a class.
    """
    found = load_named(name)
    if not (isinstance(found, type) and issubclass(found, base)):
        what = found.__name__ if isinstance(found, type) else f"a {type(found).__name__}"
        raise InputError(f"{name!r} is {what}; expected a subclass of {base.__module__}.{base.__name__}")
    return found


def place_of(cls: type) -> str:
    """The name by which :func:`load_named` finds a class, also in another process.

    Raises:
        InputError: there is none, because the class was defined in a function or in the running script.
    """
    module = sys.modules.get(cls.__module__)
    known = cls.__module__ != "__main__" and getattr(module, cls.__qualname__, None) is cls
    if module is None or not known:
        raise InputError(
            f"{cls.__qualname__} cannot be imported by another process; move it to the top level of a module"
        )
    return f"{module.__file__ if source_of(cls) else cls.__module__}:{cls.__qualname__}"


def source_of(cls: type) -> str | None:
    """The start of the SHA-256 of the file that a class was loaded from by its path; None for imported ones."""
    return cls.__module__.removeprefix(_PREFIX) if cls.__module__.startswith(_PREFIX) else None


def _file(path: Path, name: str) -> ModuleType:
    try:
        source = path.read_bytes()
    except (OSError, ValueError) as error:  # an invalid file name
        told = getattr(error, "strerror", None) or error
        raise InputError(f"{name!r}: {path} cannot be read: {told}; expected a Python file") from error
    module_name = _PREFIX + hashlib.sha256(source).hexdigest()[:16]
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = spec_from_file_location(module_name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[module_name] = module  # annotations of its classes are looked up there
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        raise InputError(f"{name!r}: running {path} raised {failure(error)}") from error
    return module


def _module(module: str, name: str) -> ModuleType:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f"{name!r}: there is no module {error.name}; looked in {folder} and Python's path") from error
    except BaseException as error:
        raise InputError(f"{name!r}: importing {module} raised {failure(error)}") from error
    finally:
        sys.path.remove(folder)
