"""The documents say what the code does."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import typer.main

import r3po
from jobs import r3po as r3po_command
from r3po import errors
from r3po.cli.app import app
from r3po.config.explain import key_meanings
from r3po.config.settings import Config, load_config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
KEYS = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
FORMAT = (ROOT / "FORMAT.md").read_text(encoding="utf-8")
SETTINGS = set(Config.model_fields) - {"path", "notices", "lines", "source_written", "is_auto", "source_folders"}


def section(text: str, title: str) -> str:
    return re.split(r"^## ", text.split(f"\n## {title}", 1)[1], maxsplit=1, flags=re.M)[0]


def test_the_page_of_keys_says_of_every_key_and_no_other_what_r3po_says() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", KEYS, re.M)
    said = {key: (default.replace("`", ""), meaning.replace("`", "")) for key, default, meaning in rows}
    assert said == {known.key: (known.default, known.meaning) for known in key_meanings()}
    assert said.keys() == SETTINGS


def test_the_page_of_commands_lists_every_command_and_option_and_no_other() -> None:
    root = typer.main.get_command(app)
    text = section(COMMANDS, "Commands")
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        assert command.help, f"{name} has no help"
        row = next(line for line in text.splitlines() if line.startswith(f"| `r3po {name} "))
        known = {option for p in command.params for option in p.opts if option.startswith("--")} - {"--help"}
        assert set(re.findall(r"--[a-z-]+", row)) == known, name
    assert set(re.findall(r"^\| `r3po (\w+)", text, re.M)) == set(root.commands)  # type: ignore[attr-defined]


def test_the_page_of_commands_lists_the_exit_code_of_every_error() -> None:
    listed = {
        int(code)
        for codes in re.findall(r"^\| ([\d, ]+) \|", section(COMMANDS, "Exit codes"), re.M)
        for code in codes.split(",")
    }
    raised = {
        cls.exit_code for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.R3poError)
    }
    assert raised <= listed
    assert listed == {0, 1, 2, 3, 4, 70, 129, 130, 143}


def test_the_error_tree_is_drawn_whole() -> None:
    drawn = set(re.findall(r"(\w+Error)", errors.__doc__ or ""))
    assert drawn == {name for name in vars(errors) if name.endswith("Error")}


def test_every_link_between_the_pages_leads_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for path, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name}: {path}"
            assert not anchor or anchor in anchors_of(target), f"{page.name}: {path}#{anchor}"


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_every_public_name_is_there_and_documented() -> None:
    for name in set(r3po.__all__) - {"__version__"}:
        assert getattr(r3po, name).__doc__, name


def test_the_readme_shows_the_function_and_the_config_of_the_sample() -> None:
    config = load_config(ROOT / "sample" / "config.yaml")
    shown = dict(re.findall(r"^(\w+): (\S+)$", section(README, "The sample"), re.M))
    assert len(shown) == 7
    for key, value in shown.items():
        written = getattr(config, key)
        assert str(written) == value or Path(str(written)).name == value, key


def test_the_first_sample_log_gives_the_row_of_the_story() -> None:
    produce = json.loads((ROOT / "sample" / "produce_log" / "file_0.json").read_text())["produce"]
    assert {group: sum(amounts.values()) for group, amounts in produce.items()} == {
        "fruits": 60,
        "vegetables": 58,
        "meat": 14,
    }


@pytest.fixture(scope="module")
def finished_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    for name in ("produce_log", "config.yaml", "count_fruits.py"):
        source = ROOT / "sample" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    ended = r3po_command("run", "--engine", "serial", cwd=folder)
    assert ended.code == 0, ended.err
    return folder


def test_format_md_names_every_field_on_disk(finished_sample: Path) -> None:
    files = {
        "Manifest": finished_sample / "working_dir" / "manifest.json",
        "Commits": next((finished_sample / "working_dir" / "commits").iterdir()),
        "Columns": finished_sample / "working_dir" / "columns.b1.json",
    }
    for title, path in files.items():
        written = json.loads(path.read_text())
        for key in set(written) - {"format", "kind", "digest"}:
            assert re.search(rf"\b{key}\b", section(FORMAT, title)), f"{title}: {key}"


def test_format_md_names_every_column_of_an_outcome() -> None:
    from r3po.table.outcomes import FIXED

    for name in FIXED.names:
        assert re.search(rf"\b{name}\b", section(FORMAT, "Outcomes")), name


def test_format_md_shows_a_shard_line_as_it_is_written(finished_sample: Path) -> None:
    shown = json.loads(next(line for line in FORMAT.splitlines() if line.startswith('    {"path"')))
    shard_file = next((finished_sample / "working_dir" / "shards").glob("*.jsonl"))
    written = json.loads(shard_file.read_text().splitlines()[0])
    assert set(shown) == set(written) - {"racy"}
