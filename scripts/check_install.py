"""What an installed zoracle has to do, with an extra or without; run by its own Python, away from any clone.

    python check_install.py [EXTRA]

It needs zoracle and the standard library only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

#: What an extra is for: the modules of zoracle, or of others, that need it.
MODULES = {
    "": (),
    "report": ("jinja2", "matplotlib"),
    "images": ("PIL",),
    "onnx": ("onnxruntime",),
    "http": ("httpx", "tenacity"),
    "tensorboard": ("tensorboard",),
    "baselines": ("cma",),
    "evosax": ("evosax",),
    "scipy": ("zoracle.interop.scipy",),
    "foolbox": ("zoracle.interop.foolbox",),
    "art": ("zoracle.interop.art",),
    "nevergrad": ("zoracle.interop.nevergrad",),
    "optuna": ("zoracle.interop.optuna",),
    "coco": ("cocoex", "cocopp", "pybobyqa"),
    "gymnasium": ("gymnasium", "mujoco"),
    "transformers": ("zoracle.interop.transformers", "peft"),
}


def run(*arguments: str) -> None:
    """One command of the installed zoracle."""
    subprocess.run([sys.executable, "-m", "zoracle", *arguments], check=True)


def main(arguments: Sequence[str]) -> int:
    """Check the installation."""
    extra = arguments[0] if arguments else ""
    import zoracle

    place = Path(zoracle.__file__).parent
    assert place.is_relative_to(sys.prefix), f"zoracle is imported from {place}, not from the environment"
    assert (place / "py.typed").is_file()
    solution = zoracle.minimize(lambda x: (x**2).sum(axis=1), [1.0] * 5, budget=500)
    assert solution.value < 1e-2, solution
    with tempfile.TemporaryDirectory() as folder:
        run("--version")
        run("optimizers")
        run("demo", "--problems", "2", "--seeds", "1", "--optimizers", "zo-lstm,zo-sgd", "--out", f"{folder}/demo")
        wanted = ["table.json", "config.json", "curves.npz", *(["report.html"] if extra == "report" else [])]
        missing = [name for name in wanted if not (Path(folder) / "demo" / name).is_file()]
        assert not missing, f"the demo did not write {', '.join(missing)}"
        run("attack", "--task", "digits", "--threat", "linf", "--eps", "0.3", "--problems", "2", "--budget", "200",
            "--optimizers", "zo-lstm", "--out", f"{folder}/attack")  # fmt: skip
    for module in MODULES[extra]:
        import_module(module)
    print(f"zoracle {zoracle.__version__} works{f' with {extra}' if extra else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
