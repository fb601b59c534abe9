"""The page of a report: one HTML file that needs nothing beside it. Whatever comes from rows or settings is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ..jobs.histogram import Histogram
from . import charts
from .summary import Course, Summary

_STYLE = """
body { font: 14px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; color: #2b2f36; background: #fff;
  margin: 0 auto; max-width: 1100px; padding: 24px; }
h1 { font-size: 22px; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 30px 0 8px; }
h3 { font-size: 13px; margin: 0 0 4px; font-weight: 600; }
.about { color: #6a707a; font-weight: 400; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin-top: 16px; }
.tile { border: 1px solid #e0e3e8; border-radius: 8px; padding: 8px 14px; min-width: 100px; }
.tile b { display: block; font-size: 19px; font-weight: 600; }
.tile span { color: #6a707a; font-size: 12px; }
.bad b, tr.bad td { color: #b3261e; }
tr.all td { font-weight: 600; }
.runs td { white-space: nowrap; padding-right: 10px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 18px 28px; align-items: start; }
svg { max-width: 100%; height: auto; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", sans-serif !important; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th { text-align: left; font-weight: 600; color: #4b515b; }
td, th { padding: 3px 14px 3px 0; border-bottom: 1px solid #eceef1; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.text, code { overflow-wrap: anywhere; }
code { font-size: 12px; }
details { margin-top: 10px; }
summary { cursor: pointer; font-weight: 600; }
"""

#: Exit codes of runs that have answered all records, or said why not.
_FINISHED = (0, 3)
#: Fields of a trace that are drawn, by chart.
_SPEEDS = (
    ("prompt_tokens_per_s", "prompt tokens", charts.BLUE),
    ("output_tokens_per_s", "output tokens", charts.ORANGE),
    ("texts_per_s", "texts", charts.ORANGE),
)
_QUEUES = (("running", "sequences running", charts.BLUE), ("waiting", "waiting", charts.ORANGE), ("held", "rows held", charts.GREY))
_KV = (("kv_usage", "KV blocks in use", charts.BLUE),)


def page(name: str, found: Summary, stats: Sequence[Mapping[str, Any]], courses: Sequence[Course]) -> str:
    """The whole file. Raises ConfigError without matplotlib."""
    charts.require()
    body = "\n".join(_body(name, found, stats, courses))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(name)}</title><style>{_STYLE}</style>'
    # Nothing may be loaded or run, whatever a row holds.
    policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    return f'<!doctype html>\n<html lang="en"><head>{policy}{head}</head><body>\n{body}\n</body></html>\n'


def _body(name: str, found: Summary, stats: Sequence[Mapping[str, Any]], courses: Sequence[Course]) -> Iterator[str]:
    commands = sorted({str(one["command"]) for one in stats})
    models = sorted({str(one["settings"].get("model", "")) for one in stats if isinstance(one.get("settings"), dict)} - {""})
    about = " · ".join([*(f"infer {command}" for command in commands), *models])
    yield f'<h1>{escape(name)}</h1><div class="about">{escape(about)}</div>'
    yield f'<div class="tiles">{"".join(_tiles(found, stats))}</div>'
    yield '<h2>Records</h2><div class="charts">'
    for title, histogram, color in (("Prompt lengths", found.prompts, charts.BLUE), ("Output lengths", found.outputs, charts.ORANGE)):
        if histogram.count:
            yield _chart(f"{title} <span class=about>({_spread(histogram)})</span>", charts.lengths(histogram.buckets(), color))
    for title, counts in (("Finish reasons", found.reasons), ("Labels", found.labels)):
        if counts:
            yield _chart(title, charts.shares(_most(counts), charts.BLUE))
    yield "</div>"
    yield from _errors(found)
    if courses:
        yield '<h2>Course</h2><div class="charts">'
        yield _chart("Throughput", charts.course(courses, _SPEEDS, "a second"))
        if any("kv_usage" in one.values for one in courses):
            yield _chart("KV cache", charts.course(courses, _KV, "share of blocks", share=True))
        yield _chart("Queues", charts.course(courses, _QUEUES, "count"))
        yield "</div>"
    if stats:
        yield from _runs(stats)
        yield from _settings(stats)


def _tiles(found: Summary, stats: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    total = found.answered + found.failed
    yield _tile(f"{total:,}", "records")
    yield _tile(f"{found.answered:,}", "answered")
    yield _tile(f"{found.failed:,}", f"failed ({found.failed / total:.1%})" if total else "failed", bad=found.failed > 0)
    yield _tile(f"{found.prompts.total:,}", "prompt tokens")
    if found.outputs.count:
        yield _tile(f"{found.outputs.total:,}", "output tokens")
    for size, count in found.sizes.most_common(1):
        yield _tile(f"{count:,}", f"vectors of {size:,}")
    seconds = [_timing(one, "run_all_attempts_s") for one in stats]
    if seconds and max(seconds) > 0:
        tokens = found.outputs.total or found.prompts.total
        yield _tile(f"{max(seconds):,.1f} s", "of the longest run" if len(stats) > 1 else "run time")
        yield _tile(f"{tokens / max(seconds):,.0f}", f"{'output' if found.outputs.count else 'prompt'} tokens a second")


def _tile(value: str, what: str, *, bad: bool = False) -> str:
    return f'<div class="tile{" bad" * bad}"><b>{escape(value)}</b><span>{escape(what)}</span></div>'


def _chart(title: str, svg: str) -> str:
    return f"<div><h3>{title}</h3>{svg}</div>"


def _spread(histogram: Histogram) -> str:
    told = histogram.to_json()
    return f"median {told['median']:,}, mean {told['mean']:,}, 99% up to {told['p99']:,}, most {told['max']:,}"


def _most(counts: Mapping[str, int], number: int = 12) -> list[tuple[str, int]]:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    rest = sum(count for _, count in ordered[number:])
    return [*ordered[:number], *([("others", rest)] if rest else [])]


def _errors(found: Summary) -> Iterator[str]:
    if not found.errors:
        return
    rows = []
    for code, count in found.errors.most_common():
        shown = "<br>".join(f"record {index:,}: {escape(' '.join(message.split()))}" for index, message in found.examples[code])
        rows.append(f'<tr><td><code>{escape(code)}</code></td><td class="n">{count:,}</td><td class="text">{shown}</td></tr>')
    heads = '<tr><th>code</th><th class="n">records</th><th>examples</th></tr>'
    yield f'<h2>Errors</h2><div class="wide"><table>{heads}{"".join(rows)}</table></div>'


def _runs(stats: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    heads = ("run", "records", "failed", "prompt tokens", "output tokens", "seconds", "output tokens/s", "attempts", "peak memory", "exit")
    cells = "".join(f"<th{'' if i == 0 else ' class=n'}>{head}</th>" for i, head in enumerate(heads))
    rows = [_row(_name_of(one), _values_of(one), bad=one["exit_code"] not in _FINISHED) for one in sorted(stats, key=_place)]
    if len(stats) > 1:
        rows.insert(0, _row(f"all {len(stats):,}", _together(stats), bad=False, kind="all"))
    title = "Shards" if len(stats) > 1 else "Run"
    yield f'<h2>{title}</h2><div class="wide"><table class="runs"><tr>{cells}</tr>{"".join(rows)}</table></div>'


def _values_of(one: Mapping[str, Any]) -> tuple[str, ...]:
    tokens, records = one.get("tokens") or {}, one["records"]
    return (
        f"{records.get('total', 0):,}",
        f"{records.get('failed', 0):,}",
        f"{tokens.get('prompt', 0):,}",
        f"{tokens['output']:,}" if "output" in tokens else "",
        f"{_timing(one, 'run_all_attempts_s'):,.1f}",
        f"{tokens['output_per_s']:,.0f}" if tokens.get("output_per_s") else "",
        f"{one.get('attempts', 1):,}",
        f"{_memory(one) / 2**20:,.0f} MiB",
        str(one["exit_code"]),
    )


def _together(stats: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Sums of counts and of rates; of seconds and memory the most; of exit codes how many are those of a run that has not finished."""
    tokens, records = [one.get("tokens") or {} for one in stats], [one["records"] for one in stats]
    writes, rate = any("output" in one for one in tokens), sum(one.get("output_per_s") or 0 for one in tokens)
    unfinished = sum(one["exit_code"] not in _FINISHED for one in stats)
    return (
        f"{sum(one.get('total', 0) for one in records):,}",
        f"{sum(one.get('failed', 0) for one in records):,}",
        f"{sum(one.get('prompt', 0) for one in tokens):,}",
        f"{sum(one.get('output', 0) for one in tokens):,}" if writes else "",
        f"max {max(_timing(one, 'run_all_attempts_s') for one in stats):,.1f}",
        f"{rate:,.0f}" if rate else "",
        f"{sum(one.get('attempts', 1) for one in stats):,}",
        f"max {max(map(_memory, stats)) / 2**20:,.0f} MiB",
        f"{unfinished:,} failed" if unfinished else "",
    )


def _row(name: str, values: Sequence[str], *, bad: bool, kind: str = "") -> str:
    kinds = " ".join(filter(None, (kind, "bad" * bad)))
    cells = "".join(f'<td class="n">{escape(value)}</td>' for value in values)
    return f"<tr{f' class={chr(34)}{kinds}{chr(34)}' * bool(kinds)}><td>{escape(name)}</td>{cells}</tr>"


def _name_of(one: Mapping[str, Any]) -> str:
    return str(one.get("output") or one["name"]).rpartition("/")[2]


def _place(one: Mapping[str, Any]) -> list[tuple[int, str]]:
    """The order of names whose numbers count as numbers."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", _name_of(one))]


def _memory(one: Mapping[str, Any]) -> int:
    return int((one.get("memory") or {}).get("peak_bytes", 0))


def _settings(stats: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    first = stats[0]
    for title, values in (("Settings", first.get("settings")), ("Sampling", first.get("sampling")), ("Versions", first.get("versions"))):
        if isinstance(values, dict) and values:
            rows = "".join(
                f"<tr><td>{escape(str(key))}</td><td><code>{escape(str(value))}</code></td></tr>" for key, value in values.items()
            )
            yield f"<details{' open' * (title == 'Versions')}><summary>{title}</summary><table>{rows}</table></details>"
    if len(stats) > 1:
        yield f'<p class="about">Settings and versions are those of {escape(str(first["name"]))}.</p>'


def _timing(one: Mapping[str, Any], name: str) -> float:
    return float((one.get("timing") or {}).get(name) or 0.0)
