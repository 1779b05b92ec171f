"""What is published: the wheel works in a clean environment, and tag, version and changelog agree."""

from __future__ import annotations

import re
import shutil
import site
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from scripts import check_install, release

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository of a version that can be released."""
    (tmp_path / "src" / "zoracle").mkdir(parents=True)
    (tmp_path / "src" / "zoracle" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [1.2.3] - 2026-12-01\n\n### Fixed\n\n- A thing.\n\n## [1.2.2] - 2026-11-30\n\n- Another.\n"
    )
    return tmp_path


def test_a_version_that_agrees_can_be_released(root: Path) -> None:
    assert release.problems("v1.2.3", root) == []
    assert release.sections(root)["1.2.3"] == ("2026-12-01", "### Fixed\n\n- A thing.")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("src/zoracle/__init__.py", "1.2.3", "1.2.4", "the tag is v1.2.3 and the version 1.2.4"),
        ("src/zoracle/__init__.py", "1.2.3", "1.2", "expected MAJOR.MINOR.PATCH"),
        ("CHANGELOG.md", "2026-12-01", "unreleased", "expected the day of the release"),
        ("CHANGELOG.md", "[1.2.3]", "[1.2.9]", "no section [1.2.3]"),
        ("CHANGELOG.md", "### Fixed\n\n- A thing.\n", "", "no section [1.2.3] with notes"),
    ],
)
def test_what_does_not_agree_is_named(root: Path, file: str, old: str, new: str, message: str) -> None:
    path = root / file
    path.write_text(path.read_text().replace(old, new))
    assert any(message in line for line in release.problems("v1.2.3", root))


def test_the_changelog_here_is_read() -> None:
    date, notes = release.sections()[release.version()]
    assert date
    assert notes.startswith("### ")


def test_every_extra_is_checked_and_documented() -> None:
    extras = set(PROJECT["optional-dependencies"]) - {"all", "dev"}
    assert set(check_install.MODULES) - {""} == extras - {"docs"}
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    (matrix,) = re.findall(r"extra: \[(.*)\]", text)
    # evosax is a download of more than 100 MB, and supports fewer versions of Python.
    assert set(re.findall(r'"(\w*)"', matrix)) == set(check_install.MODULES) - {"evosax"}
    page = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    table = page[page.index("| extra |") :]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert named == extras


def test_the_versions_of_python_that_are_claimed_are_checked() -> None:
    claimed = sorted(re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"])))
    for workflow in ("ci.yml", "release.yml"):
        text = (ROOT / ".github" / "workflows" / workflow).read_text(encoding="utf-8")
        (matrix,) = re.findall(r"python: \[(.*)\]", text)
        assert re.findall(r'"([\d.]+)"', matrix) == claimed


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(tmp_path: Path) -> None:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    # What is committed or will be, without what lies about: built from the source archive, as a release is.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("zoracle/py.typed", "zoracle/assets/digits.npz", "zoracle/recipes/zo-lstm-digits.toml"):
        assert wanted in names
    assert not [name for name in names if not name.startswith(("zoracle/", f"zoracle-{release.version()}.dist-info/"))]
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}

    clean = tmp_path / "clean"
    subprocess.run([sys.executable, "-m", "venv", str(clean)], check=True)
    python = clean / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    # The dependencies are those of this environment; its own zoracle is not seen, as a path file in it is not read.
    (packages,) = (clean / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    script = shutil.copy(ROOT / "scripts" / "check_install.py", tmp_path)
    done = subprocess.run(
        [str(python), str(script), "report"], cwd=tmp_path, env={"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"zoracle {release.version()} works with report" in done.stdout
