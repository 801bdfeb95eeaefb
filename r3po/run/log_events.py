"""What a run says to a Python caller that shows no progress: a script, a notebook, cron."""

from __future__ import annotations

import logging
import sys

from r3po import events
from r3po.doors import in_python
from r3po.events import Event
from r3po.text import count_of

log = logging.getLogger("r3po")


def log_event(event: Event) -> None:
    """Log what a terminal would be told as a warning (WARNING) or a note (INFO); print what f printed to stderr.

    An observer. Without a handler of the user's own, Python shows warnings on stderr.
    """
    match event:
        case events.Notice():
            log.log(logging.WARNING if event.is_warning else logging.INFO, "%s", in_python(event.words))
        case events.RunFinished() if event.is_limited:
            log.info("%s", in_python(limit_words(event)))
        case events.WorkerLost():
            log.warning("%s", event.words)
        case events.OutputSeen():
            for line in event.text.splitlines():
                print(f"worker {event.worker}: {line}", file=sys.stderr)


def limit_words(event: events.RunFinished) -> str:
    """Return which files a limited run left, and what does them, for one line."""
    return f"stopped at --limit: {count_of(event.n_pending, 'file is', 'files are')} left; {event.go_on} goes on"
