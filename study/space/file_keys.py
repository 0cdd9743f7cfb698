"""The keys of a search space that ask for files on disk."""

from collections.abc import Iterator

from study.space.problems import Place
from study.space.tree import Mapping, Sequence


def file_keys(root: Mapping) -> Iterator[tuple[str, Place]]:
    """Yield the keys that ask for files on disk, with their places."""
    for section, key in (("data", "name"), ("data", "root"), ("probes", "corruption_root")):
        node = root.entries[section].node if section in root.entries else None
        if isinstance(node, Mapping) and key in node.entries:
            yield f"{section}.{key}", node.entries[key].place
    teachers = root.entries["teachers"].node if "teachers" in root.entries else None
    for index, teacher in enumerate(teachers.items if isinstance(teachers, Sequence) else ()):
        if isinstance(teacher, Mapping) and "checkpoint" in teacher.entries:
            yield f"teachers.{index}.checkpoint", teacher.entries["checkpoint"].place
