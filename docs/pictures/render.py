#!/usr/bin/env python3
"""Draws a text report of memtrace, captured from a terminal, as an SVG.

Capture one at 100 columns, with its colours, and choose the lines to show:

    script -qec "stty cols 100; sudo memtrace --pid PID -d 5s --top 3 2>/dev/null" capture
    docs/pictures/render.py --command "sudo memtrace --pid PID -d 5s --top 3" \
        --lines 1-7,10-17 < capture > docs/pictures/report.svg

The colours are the terminal's own: bold, dim, cyan, yellow and red are all that a report uses. Each
piece of text is given its width, so that columns stay aligned in any monospaced font, and bars are
drawn as rectangles.
"""

import argparse
import re
import sys
from html import escape

CELL, LINE, SIZE, MARGIN, BAR_TOP = 7.8, 17, 13, 16, 38
EIGHTHS = {block: eighth for eighth, block in enumerate("▏▎▍▌▋▊▉█", start=1)}
CLASSES = {"1": "b", "2": "d", "36": "c", "33": "y", "31": "r", "32": "p"}
STYLE = (
    "text{font:%dpx ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
    "fill:#d6dbe1;white-space:pre}.b{font-weight:bold;fill:#fff}.d{fill:#939ba6}.c{fill:#4fc1d9}"
    ".y{fill:#e3b341}.r{fill:#ff7b72}.p{fill:#7ee787}" % SIZE
)


def pieces(line):
    """The parts of a line as (column, text, class)."""
    column, style = 0, ""
    for code, text in re.findall(r"\x1b\[([0-9;]*)m|([^\x1b]+)", line):
        if text:
            yield column, text, style
            column += len(text)
        else:
            style = " ".join(CLASSES[c] for c in code.split(";") if c in CLASSES)


def draw(column, text, style, y):
    """A piece as SVG; spaces at its ends are left out, and blocks become rectangles."""
    for part in re.finditer(r"[▏▎▍▌▋▊▉█]+|[^▏▎▍▌▋▊▉█]+", text):
        word = part[0].strip()
        if not word:
            continue
        x = MARGIN + (column + part.start() + part[0].index(word[0])) * CELL
        if word[0] in EIGHTHS:
            width = sum(EIGHTHS[block] for block in word) * CELL / 8
            yield f'<rect class="{style}" x="{x:.1f}" y="{y - 11}" width="{width:.1f}" height="13"/>'
            continue
        # Text in which columns are wide apart is cut there, so that each part is where it belongs.
        for bit in re.finditer(r"\S+(?: \S+)*", word):
            at = x + bit.start() * CELL
            name = f' class="{style}"' if style else ""
            yield (
                f'<text{name} x="{at:.1f}" y="{y}" textLength="{len(bit[0]) * CELL:.1f}"'
                f' lengthAdjust="spacingAndGlyphs">{escape(bit[0])}</text>'
            )


def chosen(lines, ranges):
    """The lines that are shown; what is left out between them leaves no gap."""
    if not ranges:
        return lines
    shown = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        shown += lines[int(first) - 1 : int(last or first)]
    return shown


def main():
    arguments = argparse.ArgumentParser(description="Draws a captured report as an SVG.")
    arguments.add_argument("--command", required=True, help="what was typed")
    arguments.add_argument("--lines", default="", help="the lines to show: 1-7,10-17")
    options = arguments.parse_args()

    captured = sys.stdin.read().replace("\r", "").splitlines()
    captured = [line for line in captured if not line.startswith("Script ")]
    lines = [f"\x1b[32m$\x1b[0m {options.command}", ""] + chosen(captured, options.lines)

    columns = max(sum(len(text) for _, text, _ in pieces(line)) for line in lines)
    width = round(columns * CELL + 2 * MARGIN)
    height = BAR_TOP + len(lines) * LINE + MARGIN
    print(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" role="img" aria-label="A report of memtrace in a terminal">'
    )
    print(f"<style>{STYLE}</style>")
    print(
        f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8" fill="#10151b"'
        ' stroke="#5b6570"/>'
    )
    for x, fill in ((18, "#ff5f57"), (36, "#febc2e"), (54, "#28c840")):
        print(f'<circle cx="{x}" cy="17" r="5.5" fill="{fill}"/>')
    for number, line in enumerate(lines):
        for column, text, style in pieces(line):
            for element in draw(column, text, style, BAR_TOP + number * LINE + 12):
                print(element)
    print("</svg>")


main()
