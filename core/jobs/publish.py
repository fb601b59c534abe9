"""The end of a job: every record has its row, and OUT appears."""

from __future__ import annotations

import time

from .attempt import Attempt
from .output.made_output import MadeOutput
from .output.output import JobOutput
from .watch import Watch


def publish(attempt: Attempt, watch: Watch) -> None:
    """Puts OUT in its place, after its note. Raises ConfigError where the input is not what it was, OutputError."""
    output = attempt.output
    if attempt.previous is not None:
        attempt.previous.check_end(attempt.reader.num_selected)
    if isinstance(output, MadeOutput):
        output.make()  # it may take a while, and can be interrupted
    attempt.inputs.check()
    with watch.hold():
        if isinstance(output, JobOutput):
            output.make()
            sha256 = output.sha256.hexdigest()
            note = attempt.note(records=output.num_rows, sha256=sha256, tally=attempt.stats)
            output.finish(note)
            attempt.stats.output_sha256 = sha256
        else:
            output.finish()
        attempt.stats.finished_at = time.monotonic()
    if isinstance(output, JobOutput):
        output.send()
