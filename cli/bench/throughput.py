"""`infer bench throughput`: a JSONL file or random records answered again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..command import usage
from ..options import Command, engine_args, engine_options, given_sampling, sampling_options, sampling_params
from ..options.io import quiet_option
from ..options.prompt import Prompts, prompt_options
from ..report import set_up_logging
from ..terminal import messages, streams
from .tables import pass_line, throughput_table

if TYPE_CHECKING:
    from infer.core.build.plan import Plan
    from infer.core.jobs.stats import JobStats
    from infer.core.jobs.tasks.base import Task


@click.command(cls=Command, short_help="Answer records again and again (the default).")
@click.argument("path", metavar="[IN]", required=False, type=click.Path(allow_dash=True))
@click.option("--num-prompts", metavar="N", type=click.IntRange(min=1), help="The first N records of IN, or N random ones (256).")
@click.option("--input-len", metavar="N", type=click.IntRange(min=1), help="Prompt tokens of a random record (128).")
@click.option("--output-len", metavar="N", type=click.IntRange(min=1), help="Output tokens of a random record (128).")
@click.option(
    "--random-range-ratio",
    metavar="R",
    type=click.FloatRange(min=0, max=1, max_open=True),
    help="Draw random lengths from length * (1 - R) to length * (1 + R).",
)
@click.option("--warmup", metavar="N", type=click.IntRange(min=0), default=1, show_default=True, help="Passes before those that count.")
@click.option("--repeat", metavar="N", type=click.IntRange(min=1), default=3, show_default=True, help="Passes that count.")
@click.option("--breakdown/--no-breakdown", default=True, show_default=True, help="One more pass with a stopwatch at every part.")
@click.option("--force-sampling", is_flag=True, help="Sampling options given here win over the records' own.")
@quiet_option
@prompt_options
@sampling_options
@engine_options
def throughput(
    *,
    path: str | None,
    force_sampling: bool,
    quiet: bool,
    prompt_field: str | None,
    template: str | None,
    num_prompts: int | None,
    **more: Any,
) -> int:
    """Measure how fast the records of IN (- for stdin) are answered, or random ones where there is no IN.

    They are answered as by `infer generate`, into nothing, and greedily unless they or --temperature say otherwise; random
    ones go on past the end-of-sequence token. Each pass begins with an empty prefix cache. The exit status is 3 if some
    records failed.

    \b
    infer bench throughput --model smollm2-135m --repeat 5 sample_data/generate.jsonl
    infer bench throughput --model smollm2-135m --num-prompts 64 --input-len 256 --output-len 64 --max-num-seqs 32
    infer bench throughput --model smollm2-135m --temperature 0.8 --top-p 0.95 --force-sampling sample_data/generate.jsonl
    """
    set_up_logging(quiet=quiet, verbose=0)
    passes = {name: more.pop(name) for name in ("warmup", "repeat", "breakdown")}
    lengths = {name: value for name, value in more.items() if value is not None}
    _refuse_contradictions(path, lengths, force_sampling=force_sampling, columns=(prompt_field, template) != (None, None))
    prompts = Prompts.of(prompt_field, template)
    args, origin = engine_args()
    defaults = sampling_params(temperature=0.0, ignore_eos=path is None)

    from infer.core.bench.run import measure_throughput, random_workload
    from infer.core.bench.workload import RandomLengths, Workload
    from infer.core.build.plan import make_plan
    from infer.core.jobs.tasks import constraint
    from infer.core.jobs.tasks.completion import CompletionOptions
    from infer.core.jobs.tasks.generate import GenerateTask

    # What can be wrong with the input is found before the model is looked at.
    workload = None if path is None else Workload.from_file(path, num_prompts=num_prompts)
    plan = make_plan(args, given=origin)
    if workload is None:
        if num_prompts is not None:
            lengths["num_prompts"] = num_prompts
        workload = random_workload(RandomLengths(**lengths), plan)
    elif force_sampling:
        forced = given_sampling()
        workload = workload.without([*forced, *(constraint.FIELDS if "structured_outputs" in forced else ())])

    def say(text: str, label: str = "") -> None:
        if not quiet:
            messages.say(text, label=label)

    def make_task(plan: Plan) -> Task:
        return GenerateTask.of(CompletionOptions(defaults=defaults, max_tokens_given=True, warn=say, **prompts.options()), plan)

    for note in plan.config.notes:
        say(note, label="note: ")

    def on_pass(name: str, one: JobStats) -> None:
        say(pass_line(name, one))

    told = {"bench": "throughput", **measure_throughput(plan, make_task, workload, **passes, on_pass=on_pass)}
    say(throughput_table(told))
    streams.write(streams.to_json(told) + "\n")
    return 3 if told["failed"] else 0


def _refuse_contradictions(path: str | None, lengths: dict[str, Any], *, force_sampling: bool, columns: bool) -> None:
    """`columns`: it was said where a prompt is. Raises click.UsageError."""
    if path is not None and lengths:
        flag = "--" + next(iter(lengths)).replace("_", "-")
        raise usage(f"{flag} is about random records, and {path!r} has its own; give one.")
    if path is None and "max_tokens" in given_sampling():
        raise usage("--max-tokens: random records end at --output-len; give that.")
    if path is None and columns:
        raise usage("--prompt-field and --template are about the records of IN, and there is none.")
    if force_sampling and (path is None or not given_sampling()):
        raise usage("--force-sampling needs IN, and the sampling options to force.")
