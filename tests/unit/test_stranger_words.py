"""A stranger's words stay words: on the page, in the plots, in the terminal."""

import html.parser
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study import explore, show
from study.results import load
from tests.strange_folder import PLAN, look, write_strange
from tests.study_folder import candidates, write_json


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_strange(tmp_path / "results")


HOSTILE = (
    "\"'><img src=x onerror=alert(1)><svg onload=alert(2)></svg></script></style></title><script>alert(3)</script>"
    "<a href='javascript:alert(4)'>x</a>$title {{x}} %{customdata} [link=evil]\x1b]0;owned\x07\x1b[2J\u202e"
)
STRUCTURE = {"state", "type", "schema", "part", "specification", "closed_pool", "ts", "split", "norm", "split_hash"}
"""Values by which a file is told from another kind of file."""
FREE = ("params", "proxy", "entropy", "seconds_by_attack", "provenance", "packages", "sources", "distill")
"""Mappings whose keys are anybody's."""


def hostile(document: Any, key: str = "") -> Any:
    """Append markup to every text of a document, and add a key of markup to mappings whose keys are anybody's."""
    if isinstance(document, dict):
        free = key in (
            "params",
            "proxy",
            "entropy",
            "seconds_by_attack",
            "provenance",
            "packages",
            "sources",
            "distill",
        )
        more = {HOSTILE: 0.5} if free else {}
        return {name: hostile(value, name) for name, value in document.items()} | more
    if isinstance(document, list):
        return [hostile(item, key) for item in document]
    return document + HOSTILE if isinstance(document, str) and key not in STRUCTURE else document


def make_hostile(study: Path) -> None:
    for path in study.rglob("*.json"):
        document = json.loads(path.read_text())
        keep = {"space": document["space"]} if path.name == "study.json" else {}
        keep |= {
            name: document[name]
            for name in ("models", "pool", "checks")
            if name in document and path.name == "specification.json"
        }
        write_json(path, hostile(document) | keep)
    for path in study.rglob("*.npz"):
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        for name, array in arrays.items():
            if array.dtype.kind == "U":
                arrays[name] = np.array([f"{text}{HOSTILE}" if text != "carried" else text for text in array.tolist()])
        np.savez(path, **arrays)


class Tags(html.parser.HTMLParser):
    """What a browser would make of a page, as far as tags go."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, frozenset[str]]] = []
        self.links: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, frozenset(name for name, _ in attrs)))
        self.links |= {str(value) for name, value in attrs if name in ("href", "src", "xlink:href", "action")}

    @property
    def kinds(self) -> set[tuple[str, frozenset[str]]]:
        return set(self.found)

    def count(self, *tags: str) -> int:
        return sum(tag in tags for tag, _ in self.found)


@pytest.fixture
def benign(tmp_path: Path) -> Tags:
    """The page of the same study without a bad word."""
    folder = write_strange(tmp_path / "benign")
    assert explore.main([str(folder)]) == 0
    return Tags((folder / "report/index.html").read_text())


def test_markup_in_every_text_stays_text(study: Path, benign: Tags, capsys: pytest.CaptureFixture[str]) -> None:
    make_hostile(study)
    said = look(study, capsys)
    printed, page = said.split("<!doctype html>", 1)[0], (study / "report/index.html").read_text()
    tags = Tags(page)
    assert tags.count("script") == benign.count("script") == 3
    rare = ("style", "meta", "link", "iframe", "object", "embed", "base", "form")
    assert tags.count(*rare) == benign.count(*rare)
    assert {tag for tag, _ in tags.found} <= {tag for tag, _ in benign.found}
    assert not [name for _, names in tags.found for name in names if name.startswith("on")]
    assert tags.kinds <= benign.kinds
    assert not [link for link in tags.links if not link.startswith(("#", "data:image/png;base64,"))]
    picture = Tags((study / "report/front.svg").read_text())
    assert {tag for tag, _ in picture.found} <= {tag for tag, _ in benign.found} | {"svg", "g", "text", "tspan", "line"}
    assert "&lt;img src=x onerror" in page
    for steering in ("\x1b", "\x07", "\u202e"):
        assert steering not in printed
    assert "\\u001b]0;owned" in printed
    assert "[link=evil]" in printed


def test_the_plots_get_hostile_words_as_data_only(study: Path) -> None:
    make_hostile(study)
    assert explore.main([str(study)]) == 0
    page = (study / "report/index.html").read_text()
    payload = page.split('<script type="application/json" id="payload">', 1)[1].split("</script>", 1)[0]
    assert "<" not in payload
    hovers = json.dumps([*_texts(json.loads(payload), {"hovertext", "hovertemplate"})])
    assert "<img" not in hovers
    assert "<a href" not in hovers


def _texts(document: Any, keys: set[str]) -> Iterator[str]:
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        if isinstance(value, dict | list):
            yield from _texts(value, keys) if key not in keys or isinstance(value, dict) else _flat(value)
        elif key in keys and isinstance(value, str):
            yield value


def _flat(document: Sequence[Any]) -> Iterator[str]:
    for value in document:
        if isinstance(value, list):
            yield from _flat(value)
        elif isinstance(value, str):
            yield value


def test_a_point_with_numbers_that_json_has_no_word_for_is_left_out_and_told(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study / f"trials/{candidates(PLAN)[0]:06d}/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"params": {"alpha": float("nan"), "horizon": float("inf")}}))
    assert show.main([str(study), "--json"]) == 0
    front = {point["trial"]: point for point in json.loads(capsys.readouterr().out)["front"]}
    assert front[candidates(PLAN)[0]]["params"] == {}
    assert any("damaged at 'params.alpha" in problem for problem in load(study).problems)
