"""The check of `infer doctor --invariance`, and its table."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..options import engine_args
from ..terminal import messages, streams
from ..terminal.table import counted, table

#: Settings that say which model is tried, and how it is kept.
OF_INVARIANCE = frozenset(
    {"model", "dtype", "quantization", "quantize_lm_head", "kv_cache_dtype", "activation_dtype", "device", "kernels", "threads"}
)
#: Of a model that is named: it is larger than the small one, and sequences cost memory.
BATCHES, RECORDS = (2, 3, 16, 64, 256), 24


def check_invariance(*, as_json: bool) -> int:
    """Tries the model of the options, or a small random one in all forms. Returns the exit code: 1 if anything differs."""
    args, _ = engine_args(require_model=False)

    from infer.core.bench.invariance import Form, forms_of_toy, measure_invariance, toy_model
    from infer.core.settings.hardware import choose_device

    def on_form(name: str) -> None:
        messages.say(f"trying {name or args.model}")

    with ExitStack() as stack:
        if args.model:
            kept = [args.quantization, "KV in 8 bits" if args.kv_cache_dtype != "auto" else None]
            forms = [Form(", ".join(filter(None, kept)), {"deterministic": True} if args.device.startswith("cuda") else {})]
            found = measure_invariance(args, forms, records=RECORDS, batches=BATCHES, on_form=on_form)
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            forms = forms_of_toy(choose_device(args.device, []).partition(":")[0])
            found = measure_invariance(replace(args, **toy_model(Path(folder))), forms, on_form=on_form)
    told = {"model": args.model or None, **found}
    streams.write(streams.to_json(told, indent=1) + "\n" if as_json else "".join(_shown(told)))
    return 1 if told["checks_that_differ"] else 0


def _shown(told: Mapping[str, Any]) -> Iterator[str]:
    tried = [form for form in told["forms"] if not form["error"]]
    if tried:
        rows = [("", *(", ".join(filter(None, (form["dtype"], form["name"]))) if told["model"] else form["name"] for form in tried))]
        for i, check in enumerate(tried[0]["checks"]):
            rows.append((check["name"], *(_cell(form["checks"][i]) for form in tried)))
        yield table(rows)
    for form in told["forms"]:
        if form["error"]:
            yield f"{form['name']} was not tried: {form['error']}\n"
    number = sum(len(form["checks"]) for form in tried)
    differ = told["checks_that_differ"]
    yield f"{counted(number, 'check')} of {counted(told['records'], 'record')}: " + (f"{differ:,} differ\n" if differ else "all equal\n")


def _cell(check: Mapping[str, Any]) -> str:
    if check["equal"]:
        return "equal" if check["reached"] else "equal (not reached)"
    largest = "other tokens" if check["largest"] is None else f"by {check['largest']:.1e}"
    return f"{check['differ']:,} of {check['compared']:,} differ, {largest}"
