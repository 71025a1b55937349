#!/usr/bin/env python3
"""Counts how large and how crowded the code is: production lines, types, names used more than once, files, functions.

    scripts/count.py            a table
    scripts/count.py --json     one JSON object, to compare two commits
    scripts/count.py --names    also lists type names that are declared more than once

Production code is everything under crates/*/src and crates/cli, without tests: the crate test-support, files named tests.rs or in a folder `tests`,
items under `#[cfg(test)]` and, from such an attribute on a `mod`, its whole body. Blank lines and comments are not counted.
The figures are guides for a review. A lower one is no aim by itself.
"""
import collections
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Names that every crate may use for the same role.
CONVENTIONAL = {"Error", "Config", "Builder", "Args", "Details", "Metrics"}
TYPE = re.compile(r"^\s*(?:pub(?:\([^)]*\))?\s+)?(?:struct|enum|trait|union)\s+(\w+)|^\s*(?:pub(?:\([^)]*\))?\s+)?type\s+(\w+)[^;{]*=")
PUBLIC = re.compile(r"^\s*pub\s+(?:const\s+|async\s+|unsafe\s+)*(?:fn|struct|enum|trait|type|mod|const|static|use)\b")
FUNCTION = re.compile(r"^(\s*)(?:pub(?:\([^)]*\))?\s+)?(?:const\s+|async\s+|unsafe\s+)*fn\s+(\w+)")


def production_lines(path):
    """Yields (number, line) of code outside of tests; comments and blank lines are left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.strip() == "#[cfg(test)]":
            at = after_item(lines, at + 1)
            continue
        text = line.strip()
        if text and not text.startswith("//"):
            yield at + 1, line
        at += 1


def after_item(lines, at):
    """The line after the item that starts at `at`: rustfmt closes a block at the indentation of its first line."""
    while lines[at].strip().startswith(("#[", "//")):
        at += 1
    indent = len(lines[at]) - len(lines[at].lstrip())
    if lines[at].rstrip().endswith((";", "}")):
        return at + 1
    while at < len(lines):
        at += 1
        if at < len(lines) and re.match(r"\s{%d}[})]" % indent, lines[at]) and not lines[at].startswith(" " * (indent + 1)):
            return at + 1
    return at


def is_production(path):
    parts = path.relative_to(ROOT).parts
    return not {"tests", "benches", "test-support"} & set(parts) and path.name not in ("tests.rs",) and not path.name.endswith("_tests.rs")


def count():
    files = sorted(p for p in ROOT.glob("crates/**/*.rs") if is_production(p))
    n_lines, n_public, names, longest, per_file = 0, 0, collections.defaultdict(list), [], []
    for path in files:
        code = list(production_lines(path))
        n_lines += len(code)
        name = str(path.relative_to(ROOT))
        per_file.append((len(code), name))
        open_function = None
        for number, line in code:
            found = TYPE.match(line)
            # Associated types stand inside of a block and are no types of their own.
            if found and (found.group(1) or not line.startswith(" ")):
                names[found.group(1) or found.group(2)].append(name)
            n_public += bool(PUBLIC.match(line))
            function = FUNCTION.match(line)
            if function and not line.rstrip().endswith(";"):
                open_function = (len(function.group(1)), function.group(2), number)
            elif open_function and re.match(r"\s{%d}\}" % open_function[0], line) and line.index("}") == open_function[0]:
                longest.append((number - open_function[2] + 1, f"{name}:{open_function[1]}"))
                open_function = None
    n_types = sum(len(where) for where in names.values())
    shared = {name: where for name, where in names.items() if len(where) > 1 and name not in CONVENTIONAL}
    return {
        "files": len(files),
        "lines": n_lines,
        "types": n_types,
        "types_per_1000_lines": round(1000 * n_types / max(n_lines, 1), 1),
        "type_names_used_more_than_once": len(shared),
        "types_with_such_a_name": sum(len(where) for where in shared.values()),
        "public_items": n_public,
        "longest_functions": sorted(longest, reverse=True)[:5],
        "longest_files": sorted(per_file, reverse=True)[:5],
        "shared_names": shared,
    }


def main(arguments):
    if unknown := set(arguments) - {"--json", "--names"}:
        print(f"unknown: {' '.join(sorted(unknown))}\n{__doc__}", file=sys.stderr)
        return 64
    counted = count()
    shared = counted.pop("shared_names")
    if "--json" in arguments:
        print(json.dumps(counted, indent=1))
        return 0
    for key, value in counted.items():
        if isinstance(value, list):
            print(key.replace("_", " "))
            for size, where in value:
                print(f"  {size:6} {where}")
        else:
            print(f"{key.replace('_', ' '):34} {value:>8}")
    if "--names" in arguments:
        for name, where in sorted(shared.items(), key=lambda row: (-len(row[1]), row[0])):
            print(f"  {name:24} {len(where)}  {' '.join(where)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
