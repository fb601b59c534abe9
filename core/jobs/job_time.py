"""The time of a job: one for all its records and attempts, since templates may tell it."""

from __future__ import annotations

import os
from datetime import datetime

from ..errors import ConfigError


def job_time() -> datetime:
    """Now, in whole seconds and local time; or what SOURCE_DATE_EPOCH says, so that shards begun apart are of one job.

    Raises ConfigError for one that is no number of seconds. https://reproducible-builds.org/specs/source-date-epoch/
    """
    told = os.environ.get("SOURCE_DATE_EPOCH")
    if not told:
        return datetime.now().replace(microsecond=0)
    try:
        return datetime.fromtimestamp(int(told))
    except (ValueError, OverflowError, OSError):
        raise ConfigError(f"SOURCE_DATE_EPOCH is {told!r}, not a number of seconds since 1970") from None
