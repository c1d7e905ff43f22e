"""What the README says is so: its commands are understood, its files are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from backend.__main__ import make_parser
from tests.test_boundaries import tracked_files

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"python3 -m backend ([^`\n]+)", README)
LINKS = re.findall(r"\]\(([^)#:]+)\)", README)


def files_of_the_tree() -> list[str]:
    """The paths that the file tree names, put together from its indentation."""
    lines = re.findall(r"^ {4}( *)(\S.*)$", README.partition("## Files")[2], re.MULTILINE)
    folders: list[str] = []
    found = []
    for indent, text in lines:
        depth = len(indent) // 2
        names = re.match(r"(?:\S+ )*\S+", re.split(r"  +", text)[0])
        assert names is not None
        for name in names[0].split():
            found.append("/".join([*folders[:depth], name.rstrip("/")]))
            if name.endswith("/"):
                folders[depth:] = [name.rstrip("/")]
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command: str) -> None:
    words = shlex.split(command.partition("  #")[0])
    options = make_parser().parse_args(words)
    assert options.command == words[0]


def test_the_tree_is_read_at_all() -> None:
    files = files_of_the_tree()
    assert "backend/geometry/ply.py" in files
    assert "blender_addon/panels.py" in files


@pytest.mark.parametrize("path", files_of_the_tree())
def test_every_file_of_the_tree_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_file_of_the_program_is_in_the_tree() -> None:
    named = set(files_of_the_tree())
    files = [path.relative_to(ROOT).as_posix() for path in tracked_files() if path.suffix == ".py"]
    program = [path for path in files if path.startswith(("backend/", "blender_addon/"))]
    # folders of which the files are named
    told = {path.rpartition("/")[0] for path in named if path.endswith(".py")}
    missing = [
        path
        for path in program
        if not path.endswith("/__init__.py")
        and path not in named
        # a folder may have one line for all of it
        and ((folder := path.rpartition("/")[0]) not in named or folder in told)
    ]
    assert len(program) > 40
    assert missing == []


@pytest.mark.parametrize("path", LINKS)
def test_every_link_leads_somewhere(path: str) -> None:
    assert (ROOT / path).is_file()


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs" / "demo.png").stat().st_size <= 500_000
