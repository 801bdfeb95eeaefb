"""The examples of README.md and docs/ do what the page says: each page is typed in, top to bottom, in one folder.

How a page marks what its blocks are, so that it reads as plain Markdown:

- ```console: `$ command` is typed, the lines behind it are what it prints; `...` stands for anything. Times, speeds and
  versions may differ, and so may what belongs to Ray, since `r3po run` and `run_jobs` get the serial engine here.
- ```python, ```yaml: with a comment `# name.py` or `# config.yaml` as first line it is that file. Other Python is run,
  with the names of the blocks before it. Other YAML are keys for the config.yaml that is there: they are put into it.
- ```pycon: `>>> ...` as doctest has it.
- `<!-- not run: reason -->` on the line before a block: it is only shown.

README.md begins in a copy of `sample/`, docs/start.md in an empty folder, all others in `sample/` after `r3po run`.
"""

from __future__ import annotations

import contextlib
import doctest
import functools
import io
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import jobs
import r3po
from r3po.cli.app import run_command
from r3po.config.settings import load_config

ROOT = Path(__file__).parents[2]
INNER = {"architecture.md", "faults.md", "soak.md"}
"""Pages for those who change r3po."""
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name not in INNER)]
KINDS = {"console", "python", "pycon", "yaml"}

_BLOCK = re.compile(r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<kind>.*)\n(?P<text>(?:.*\n)*?)^```$", re.M)
_FILE = re.compile(r"# ([\w./-]+\.(?:py|yaml))(?![\w.])")
_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """One block of a page."""

    line: int
    kind: str
    text: str
    not_run: str | None

    @property
    def file(self) -> str | None:
        """The name of the file that this block is, if it is one."""
        named = _FILE.match(self.text)
        return named[1] if named and self.kind in ("python", "yaml") else None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(text.count("\n", 0, found.start("text")), found["kind"], found["text"], found["reason"])
        for found in _BLOCK.finditer(text)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_example_of_a_page_does_what_the_page_says(
    page: Path, jobs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begin(page, jobs_folder)
    monkeypatch.setattr(r3po, "run_jobs", functools.partial(r3po.run_jobs, engine="serial"))
    monkeypatch.setenv("COLUMNS", "80")
    reader = Reader(folder)
    with jobs.as_new_process(folder):
        sys.path.insert(0, str(folder))
        for block in blocks_of(page):
            if block.not_run is None:
                try:
                    reader.follow(block)
                except Exception as error:
                    raise AssertionError(f"{page.name}, line {block.line}: {error}") from error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_of_a_page_is_of_a_known_kind(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert {block.kind for block in blocks_of(page) if block.not_run is None} <= KINDS, "or say why it is not run"
    assert text.count("```") == 2 * len(blocks_of(page))
    # What is indented by four is code for Markdown, unless it is inside of a fence or continues a list.
    assert not re.search(r"^\n {4}\S", _BLOCK.sub("", text), re.M), "fence the block, so that it is run"


def begin(page: Path, where: Path) -> Path:
    """Return the folder in which the examples of a page are typed."""
    folder = where / "sample"
    if page.stem == "start":
        folder.mkdir()
        return folder
    shutil.copytree(ROOT / "sample", folder, ignore=shutil.ignore_patterns("working_dir", "output_dir", "__pycache__"))
    if page.stem != "README":
        assert jobs.r3po("run", "--engine", "serial", cwd=folder).code == 0
    return folder


class Reader:
    """Somebody who types in what a page shows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names, self.code = folder, {"__name__": "__main__"}, 0

    def follow(self, block: Block) -> None:
        """Do what one block says; raise AssertionError if it does not come out as shown."""
        if block.file:
            path = self.folder / block.file
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.kind == "console":
            for command, wanted in commands_of(block.text):
                compare(command, wanted, self.type(command))
        elif block.kind == "python":
            with contextlib.redirect_stderr(io.StringIO()):
                exec(compile(block.text, f"line {block.line}", "exec"), self.names)
        elif block.kind == "pycon":
            self.examine(block)
        elif block.kind == "yaml":
            self.put_into_config(block.text)

    def type(self, command: str) -> str:
        """Return what a command prints."""
        command = command.replace("$?", str(self.code))
        words = command.split()
        if words[0] == "r3po" and ">" in words:
            (self.folder / words[-1]).write_text(self.type(command.partition(" > ")[0]))
            return ""
        if words[0] == "r3po":
            serial = ["--engine", "serial"] if words[1] == "run" and "--engine" not in words else []
            return self.type_r3po(*words[1:], *serial)
        if words[0] == "python" and words[1].endswith(".py"):
            return self.run_script(words[1])
        done = subprocess.run(["sh", "-c", command], cwd=self.folder, capture_output=True, text=True, timeout=20)
        self.code = done.returncode
        return done.stdout + done.stderr

    def type_r3po(self, *arguments: str) -> str:
        said = io.StringIO()
        with jobs.as_new_process(self.folder), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            sys.argv, sys.stdin = ["r3po", *arguments], io.StringIO()
            self.code = run_command()
        return said.getvalue()

    def run_script(self, name: str) -> str:
        said = io.StringIO()
        with jobs.as_new_process(self.folder), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            sys.path.insert(0, str(self.folder))
            runpy.run_path(name, run_name="__main__")
        return said.getvalue()

    def examine(self, block: Block) -> None:
        test = doctest.DocTestParser().get_doctest(block.text, self.names, "page", None, block.line)
        said: list[str] = []
        with contextlib.redirect_stderr(io.StringIO()):
            doctest.DocTestRunner(optionflags=_OPTIONS).run(test, out=said.append, clear_globs=False)
        self.names.update(test.globs)
        assert not said, "".join(said)

    def put_into_config(self, text: str) -> None:
        config = self.folder / "config.yaml"
        keys: dict[str, Any] = yaml.safe_load(text)
        kept = [line for line in config.read_text().splitlines() if line.partition(":")[0] not in keys]
        config.write_text("\n".join([*kept, text]))
        load_config(config)


def commands_of(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block with what it prints."""
    for entry in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, _, printed = entry.partition("\n")
        yield command, printed


def compare(command: str, wanted: str, printed: str) -> None:
    wanted, printed = masked(wanted), masked(printed)
    lines = [r"(?:.*\n)*?" if line == "..." else pattern_of(line) for line in wanted.splitlines()]
    if wanted and not re.fullmatch("".join(lines), printed):
        raise AssertionError(f"$ {command}\nthe page shows\n{wanted}\nbut it prints\n{printed}")


def pattern_of(line: str) -> str:
    """Return a pattern for one line, in which `...` stands for anything."""
    return ".*".join(re.escape(piece) for piece in line.split("...")) + r"\n"


def masked(text: str) -> str:
    """Return what r3po prints without what differs from run to run and from machine to machine."""
    text = re.sub(
        r"^(Ray  |Serial  |Process  |\d{4}-\d\d-\d\dT).*\n", "", text, flags=re.M
    )  # progress, as the engine has it
    text = re.sub(r"\b\d+(\.\d+)? s\b|\b\d+\.\d{3,}\b( s\b)?", "TIME", text)
    text = re.sub(r"^\s*[~^]+\n", "", text, flags=re.M)  # Python 3.11 and 3.12 mark different parts of a line
    text = re.sub(r"r3po \d+\.\d+\.\w+", "r3po VERSION", text)
    return "".join(" ".join(line.split()) + "\n" for line in text.splitlines())  # what follows a time moves
