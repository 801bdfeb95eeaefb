"""What f returned, made into a row or a failure of a batch."""

from __future__ import annotations

from typing import Any

from r3po.file_version import FileVersion
from r3po.source.object_ahead import ObjectInUse
from r3po.source.read import FileInUse
from r3po.table.columns import Columns, ColumnSettings, RowCollector, is_row
from r3po.table.outcomes import Failure, OutcomeBatch
from r3po.table.user_objects import ends_worker, text_of, type_name
from r3po.table.values import BadRowError
from r3po.worker.failures import clean, failure_of


def note_file(
    batch: OutcomeBatch, place: int, version: FileVersion | FileInUse | ObjectInUse, seconds: float = 0.0
) -> None:
    """Put a file into the batch, without its row or failure."""
    batch.places.append(place)
    batch.sizes.append(version.size)
    batch.mtimes_ns.append(version.mtime_ns)
    batch.hashes.append(version.hash)
    batch.racy.append(version.is_racy)
    batch.tags.append(version.tag)
    batch.seconds.append(seconds)


def take_row(returned: Any, collector: RowCollector | None) -> tuple[tuple[Any, ...] | None, Failure | None]:
    if type(returned) is not dict and not is_row(returned):
        return None, no_dict(returned)
    if collector is None:
        return None, Failure("BadRow", "there are no columns yet", "", "")
    try:
        return collector.take(returned), None
    except BaseException as error:
        return None, no_row(error)


def first_row(
    returned: Any, failure: Failure | None, column_settings: ColumnSettings
) -> tuple[tuple[Columns, tuple[Any, ...]] | None, Failure | None]:
    if failure is not None:
        return None, failure
    if not is_row(returned):
        return None, no_dict(returned)
    try:
        columns = column_settings.first(dict(returned))
        return (columns, RowCollector(columns).take(returned)), None
    except BaseException as error:
        return None, no_row(error)


def append_outcome(batch: OutcomeBatch, row: tuple[Any, ...] | None, failure: Failure | None) -> None:
    if failure is not None:
        batch.failures[len(batch.rows)] = failure
        row = None
    batch.rows.append(row)


def no_dict(returned: Any, needed: str = "r3po needs one dict a file") -> Failure:
    """Return the failure of a file for which f returned something else than a dict."""
    if type_name(returned) in ("list", "tuple", "generator") and needed.startswith("r3po"):
        needed += "; for many rows a file: rows: many"
    return Failure("NoDict", f"f returned a {type_name(returned)}; {needed}", "", "")


def no_row(error: BaseException) -> Failure:
    """Return why a dict is no row: f's own dict class, or a value's own methods, may raise anything."""
    if ends_worker(error):
        raise error
    if type(error) is BadRowError:
        return Failure("BadRow", clean(str(error)), "", "")
    return failure_of(error, None)


def safe_repr(value: Any) -> str:
    text = text_of(repr, value, f"<a {type_name(value)}>")
    return clean(text if len(text) <= 200 else text[:200] + "...")
