"""What a build tells of the source: what was found, what was passed over, and which files are chosen no longer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from r3po import events
from r3po.config.settings import Config
from r3po.errors import SourceError
from r3po.events import Observer
from r3po.source.folders import WalkCounts
from r3po.source.new_manifest import FileCounts
from r3po.source.sources import Source
from r3po.state.job import Job
from r3po.state.manifest import Manifest
from r3po.storage.names import absolute_path, show_name
from r3po.text import count_of


def tell_moved_source(job: Job, observer: Observer) -> None:
    """Say what it means that the config names another source than the manifest, or chooses other files of it."""
    config, known = job.config, job.manifest
    if known is None:
        return
    redo = "r3po run --redo makes all rows again"
    if known.source_path != str(config.source_path) and known.selection.is_list == config.selection.is_list:
        text = f"the source was {show_name(known.source_path)}; files of the same relative path, size and mtime keep "
        observer(events.Notice(text + "their rows, and whatever these say of the old path", hint=redo))
    if changed := changed_keys(known, config):
        observer(events.Notice(f"{', '.join(changed)}; files that are not chosen any more are gone from the job"))


def changed_keys(known: Manifest, config: Config) -> list[str]:
    """Return in words which keys of the config choose other files than at the last build."""
    now, was = config.selection, known.selection
    changed = []
    if was.is_list != now.is_list:
        kind, start = ("one folder", "below it") if was.is_list else ("a list", "with their folder")
        changed.append(f"source_path is {kind} now, so that paths begin {start} and all files are new")
    elif lost := sorted(set(was.folders) - set(now.folders)):
        paths = {str(path): name for path, name in zip(config.source_paths, now.folders, strict=True)}
        others = {name: paths.get(absolute_path(known.source_path, name)) for name in lost}
        if gone := [name for name in lost if others[name] is None]:
            changed.append(f"source_path does not name {_quoted(gone)} any more")
        for name, other in others.items():
            if other is not None:
                change = f"{_quoted([name])} but {_quoted([other])}, so that all files of it are new"
                changed.append(f"source_path does not name {change}")
    return changed + [f"{key} is {new} and was {old}" for key, (old, new) in was.differences(now).items()]


def tell_scan(
    job: Job, n_files: int, size_bytes: int | None, found: FileCounts, counts: WalkCounts, observer: Observer
) -> None:
    """Tell what a walk found, what it passed over, and what the user may not have meant."""
    config = job.config
    passed_over = {
        "hidden": counts.hidden,
        "linked folders": counts.linked_folders,
        "not regular files": counts.irregular,
        "excluded": counts.excluded,
        "excluded folders": counts.excluded_folders,
        "folders that cannot be listed": len(counts.unreadable),
        **{f"end with {ending}": n for ending, n in counts.other_case.items()},
    }
    observer(
        events.ScanFinished(
            source=count_of(len(config.source_folders), "folder")
            if config.selection.is_list
            else str(config.source_path),
            suffix=config.selection.shown_endings,
            n_files=n_files,
            size_bytes=size_bytes,
            **asdict(found),
            passed_over={reason: n for reason, n in passed_over.items() if n},
        )
    )
    if counts.other_case:
        observer(events.Notice(near_words(counts), hint="ignore_case: true takes such names, too"))
    if counts.unmatched:
        hint = f"globs begin at source_path: **/{counts.unmatched[0]} finds it in every folder"
        observer(events.Notice(f"{_quoted(counts.unmatched)} of include and exclude fits nothing", hint=hint))
    if counts.unreadable:
        text = f"{unreadable_words(config, counts.unreadable)}; the files that the job knows of there stay as they are"
        observer(events.Notice(text, hint="on_unreadable: stop ends a run instead", is_warning=True))


def near_words(counts: WalkCounts) -> str:
    """Say how many names end as they should, but for the case of letters."""
    files = count_of(counts.other_case.total(), "file ends", "files end")
    return f"{files} with {' or '.join(counts.other_case)}, which is not source_file_part"


def unreadable_words(config: Config, unreadable: Mapping[str, str]) -> str:
    """Say how many folders could not be listed, and which was the first, and why."""
    first, reason = next(iter(unreadable.items()))
    path = show_name(absolute_path(str(config.source_path), first.rstrip("/")))
    return f"{count_of(len(unreadable), 'folder')} cannot be listed, the first is {path}: {reason}"


def no_file_error(config: Config, source: Source, counts: WalkCounts) -> SourceError:
    """Return the error of a source without a file of the job, with what may have been meant."""
    which, hints = config.selection, []
    ends = " or ".join(f'"{ending}"' for ending in which.endings if ending)
    what = f"no file under {config.shown_source} {f'ends with {ends}' if ends else 'was found'}"
    if which.include or which.exclude:
        what += " and fits include and exclude"
    if counts.excluded or counts.excluded_folders:
        files, folders = count_of(counts.excluded, "file"), count_of(counts.excluded_folders, "folder")
        hints.append(
            f"include and exclude leave out {files} and {folders}; globs begin at source_path: **/ before a "
            "name finds it in every folder"
        )
    if counts.other_case:
        hints.append(f"{near_words(counts)}; ignore_case: true takes them")
    if counts.unreadable:
        hints.append(unreadable_words(config, counts.unreadable))
    others = list(source.suffixes().items())[:3]
    if others and not hints:
        hints.append(", ".join(f'{count_of(n, "file ends", "files end")} with "{other}"' for other, n in others))
    empty = "the folder is empty, but for hidden names and linked folders"
    if config.source_url is not None:
        empty = "nothing is there, but for hidden names; look at the URL"
    return SourceError(what, hint="\n".join(hints) or empty)


# Private functions


def _quoted(names: list[str]) -> str:
    return " and ".join(f'"{show_name(name)}"' for name in names)
