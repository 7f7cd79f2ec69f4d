"""Reads reports with the libraries of Python that they are for.

    python3 readers.py FOLDER NAME

Prints what each of them says that was copied, a line each: the tool, what is counted, the sum. Whoever
runs it compares. A file that a library refuses ends it.
"""

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import duckdb
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as strict_families,
)
from prometheus_client.parser import text_string_to_metric_families as families

# The largest value that one of the histograms may have, in nanoseconds or milliseconds: an hour.
LARGEST = 3_600_000_000_000
# Bytes of the largest JSON value that is read.
LARGEST_REPORT = 1 << 29


def say(tool, counted, value):
    print(f"{tool}\t{counted}\t{int(value)}")


def prometheus(text):
    """The text format; and OpenMetrics, where a counter is called without its end, and a file has one."""
    as_openmetrics = re.sub(r"^(# (?:HELP|TYPE) \w+)_total ", r"\1 ", text, flags=re.M) + "# EOF\n"
    for tool, read, form in [
        ("prometheus_client", families, text),
        ("prometheus_client's OpenMetrics", strict_families, as_openmetrics),
    ]:
        sums = {}
        for family in read(form):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0) + sample.value
        # A cause that copied nothing has no row.
        say(tool, "bytes", sums.get("memtrace_copied_bytes_total", 0))
        say(tool, "pages", sums.get("memtrace_copied_pages_total", 0))
        say(tool, "latencies", sums["memtrace_copy_duration_seconds_count"])
        say(tool, "ages", sums["memtrace_copy_age_seconds_count"])


def hdrhistogram(path):
    counts = {"latency_ns": 0, "age_ms": 0}
    log = HistogramLogReader(str(path), HdrHistogram(1, LARGEST, 3))
    while (values := log.get_next_interval_histogram()) is not None:
        kind = next(kind for kind in counts if values.get_tag().startswith(kind))
        counts[kind] += values.get_total_count()
        assert values.get_value_at_percentile(50) <= values.get_max_value()
    say("hdrhistogram of Python", "latencies", counts["latency_ns"])
    say("hdrhistogram of Python", "ages", counts["age_ms"])


def database(path):
    query = """
        select coalesce(sum(site.bytes), 0), coalesce(sum(site.pages), 0)
        from (select unnest(call_sites) as site
              from read_json(?, maximum_object_size = ?))
    """
    totals = "select totals.copied_bytes from read_json(?, maximum_object_size = ?)"
    arguments = [str(path), LARGEST_REPORT]
    ((total,),) = duckdb.execute(totals, arguments).fetchall()
    say("DuckDB", "bytes", total)
    try:
        ((size, pages),) = duckdb.execute(query, arguments).fetchall()
    except duckdb.BinderException:
        # An empty list has no type, and so no rows with columns.
        size = pages = 0
    say("DuckDB, of call sites", "bytes", size)
    say("DuckDB, of call sites", "pages", pages)


def picture(path):
    root = ET.parse(path).getroot()
    names = "{http://www.w3.org/2000/svg}"
    assert root.tag == names + "svg", root.tag
    title = root.find(names + "title").text
    found = re.search(r": ([\d,]+) pages? in", title)
    pages = int(found[1].replace(",", "")) if found else 0
    say("an XML parser", "pages", pages)


def main():
    folder, name = Path(sys.argv[1]), sys.argv[2]
    prometheus((folder / f"{name}.prom").read_text())
    hdrhistogram(folder / f"{name}.hlog")
    database(folder / f"{name}.json.gz")
    picture(folder / f"{name}.svg")


main()
