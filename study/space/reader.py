"""YAML file and overrides in, one checked Space out; or every error at once, each with its place.

Needs neither torch nor Ray, and answers well within a second.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from study.errors import SpaceError
from study.space.anchors import read_anchors
from study.space.conditions import read_conditions
from study.space.contrast import read_contrast
from study.space.file_keys import file_keys
from study.space.needs import drop_overridden
from study.space.overrides import apply_overrides
from study.space.problems import Place, Problems, Source, closest
from study.space.quantities import got
from study.space.ranges import read_ranges
from study.space.reading import Reading
from study.space.rules import check_rules
from study.space.sections import read_sections
from study.space.settings import Space
from study.space.solving import fill_discretisation
from study.space.tree import Mapping, parse, value_of

MAX_BYTES = 64 * 1024
"""Largest file that is read; a space has a few thousand bytes."""


def read_space(path: Path, overrides: Sequence[str] = ()) -> Space:
    """Read and check a search space.

    Args:
        path: The YAML file.
        overrides: `key=value` texts of the command line; keys are dotted, values are YAML.

    Raises:
        SpaceError: If anything is wrong; the message holds every problem as `file:line:column sentence`, the source
            line with a caret, and what was probably meant. An error in an override cites the override.
    """
    text = _text(path)
    problems = Problems()
    source = Source(str(path), tuple(re.split("[\n\r\x85\u2028\u2029]", text)))
    root = _root(text, source, problems)
    apply_overrides(root, overrides, problems)
    space = _assemble(root, path, problems)
    problems.raise_if_any()
    assert space is not None, "a space without problems is complete"
    return space


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            raise SpaceError(f"{path}: this is a folder; give the YAML file in it{_neighbours(path, path)}.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SpaceError(f"{path}: there is no such file{_neighbours(path.parent, path)}.") from None
    except (OSError, ValueError) as error:
        raise SpaceError(f"{str(path)!a}: the file cannot be read ({error}).") from None
    if len(content) > MAX_BYTES:
        raise SpaceError(f"{path}:1:1 the file is larger than {MAX_BYTES // 1024} KiB; a search space is not.")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        message = f"the byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8 text."
        raise SpaceError(f"{path}:{line}:{column} {message}") from None


def _neighbours(folder: Path, path: Path) -> str:
    """Name the space that was probably meant, or those that lie there."""
    if not folder.is_dir():
        return f"; there is no folder {folder} either"
    names = sorted(each.name for each in folder.glob("*.yaml"))[:20]
    word = closest(path.name, names) if folder != path else None
    if word is not None:
        return f"; did you mean {str(folder / word)!r}?"
    return f" ({', '.join(names)})" if names else ""


def _root(text: str, source: Source, problems: Problems) -> Mapping:
    node = parse(text, source, problems)
    if node is None:
        problems.raise_if_any()
    start = Place(source, 0, 0)
    if node is None or value_of(node) is None:
        problems.add(start, "the file is empty; a space begins with `space:` (see search_spaces/README.md).")
    elif not isinstance(node, Mapping):
        problems.add(node.place, f"a search space must be a mapping of sections, but got {got(value_of(node))}.")
    if isinstance(node, Mapping):
        return node
    problems.raise_if_any()
    return Mapping(start)


def _assemble(root: Mapping, path: Path, problems: Problems) -> Space | None:
    sections = read_sections(root, path, problems)
    drafts = read_ranges(root, sections, problems)
    drop_overridden(drafts, sections)
    parameters = read_conditions(drafts, problems)
    fill_discretisation(drafts, sections)
    top = root.entries["space"].place if "space" in root.entries else root.place
    reading = Reading(parameters, drafts, sections, top, problems)
    check_rules(reading)
    points = read_anchors(root.entries.get("anchors"), parameters, drafts, problems)
    contrast = read_contrast(root.entries.get("contrast"), reading)
    if problems.found:
        return None
    asked_at = {key: str(place) for key, place in file_keys(root)}
    return Space(
        path=path, parameters=parameters, points=points, contrast=contrast, asked_at=asked_at, **sections.values
    )
