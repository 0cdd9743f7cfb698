"""What a node lacks is found before the first job and told in a table: made-up answers, and a real folder."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from study.engine import nodes
from study.engine.nodes import Answer, Node, Question, judge, left_in, look_around, row_of, table
from study.errors import EnvironmentFault

OWN = Answer("", "3.11.7", {"torch": "2.10.0", "ray": "2.60.0", nodes.OWN_FILES: "abc"}, "f" * 64, (), 500.0)
NODE = Node("10.0.0.2 (a1b2c3)", 8.0, 0.0)
HEAD = Node("10.0.0.1 (d4e5f6)", 0.0, 0.0)
ASKED = (1.0, 0.0)


def told(*answers, node=NODE, asked=ASKED):
    rows = [row_of(node, answer, OWN, asked) for answer in answers]
    with pytest.raises(EnvironmentFault) as caught:
        judge(rows, asked)
    return str(caught.value)


def test_all_is_well_in_one_line_and_a_head_without_work_may_lack_everything():
    rows = [row_of(NODE, OWN, OWN, ASKED), row_of(HEAD, "no answer within 60 s", OWN, ASKED)]
    said = judge(rows, ASKED)
    assert said.startswith("1 node can write, rename and link")
    assert said.endswith("1 more takes no jobs")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("answer", "said", "advice"),
    [
        (replace(OWN, folder="not shared: the driver's file is not there"), "not shared", "--output"),
        (replace(OWN, python="3.12.1"), "3.12.1, the driver has 3.11.7", "minor version"),
        (
            replace(OWN, packages={**OWN.packages, "torch": "2.9.1"}),
            "torch 2.9.1, the driver has 2.10.0",
            "constraints",
        ),
        (replace(OWN, packages={**OWN.packages, "ray": None}), "ray missing", "install"),
        (replace(OWN, packages={**OWN.packages, nodes.OWN_FILES: "xyz"}), "nodekd's files xyz", "the same commit"),
        (replace(OWN, data="e" * 64), "other images: eeeeeeeeeeee instead of ffffffffffff", "data.root"),
        (replace(OWN, data="DataError: there is no folder data/"), "DataError: there is no folder", "data.root"),
        (replace(OWN, free_gb=0.2), "0.20 GB free", "free at least 1 GB"),
        ("no answer within 60 s", "no answer within 60 s", "does not answer"),
    ],
)
def test_each_fault_is_told_with_what_to_do(answer, said, advice):
    text = told(answer, OWN)
    assert text.startswith("Every node must be able to do a job as the driver would, but 1 of 2 cannot:")
    assert said in text
    assert advice in text.rpartition("10.0.0.2")[2]


def test_gpus_count_only_where_jobs_ask_for_them():
    lacking = Node("10.0.0.3", 8.0, 2.0)
    answer = replace(OWN, gpus=("NVIDIA H200",))
    assert not row_of(lacking, answer, OWN, (1.0, 0.0)).faults
    assert "Ray counts 2, the machine has 1" in told(answer, node=lacking, asked=(1.0, 1.0))
    assert "2 x NVIDIA H200" in table([row_of(lacking, replace(OWN, gpus=("NVIDIA H200",) * 2), OWN, (1.0, 1.0))])


def test_a_job_that_fits_no_single_node_is_refused():
    text = told(OWN, OWN, node=Node("10.0.0.2", 2.0, 0.0), asked=(3.0, 0.0))
    assert text.startswith("A job runs on one node and asks for resources.cpus=3")


def test_the_table_has_a_line_per_node_and_aligned_columns():
    rows = [row_of(NODE, OWN, OWN, ASKED), row_of(HEAD, OWN, OWN, ASKED)]
    head, *lines = table(rows).splitlines()
    assert head.split() == ["node", *nodes.CHECKS]
    assert len(lines) == 2
    assert [line.index("3.11.7") for line in lines] == [head.index("python")] * 2
    assert "takes no jobs" in lines[1]


# ---------------------------------------------------------------- a real folder


def test_a_shared_folder_passes_and_is_left_clean(tmp_path):
    (tmp_path / ".probe-old").mkdir()
    with left_in(tmp_path) as nonce:
        answer = look_around(Question(str(tmp_path), nonce, split_hash=lambda: "f" * 64))
    assert (answer.folder, answer.data) == ("", "f" * 64)
    assert answer.free_gb > 0
    assert answer.packages["nodekd"] == "0.1.0"
    assert len(answer.packages[nodes.OWN_FILES]) == 12
    assert list(tmp_path.iterdir()) == []
    assert not row_of(NODE, answer, answer, ASKED).faults


def test_a_folder_of_the_same_name_elsewhere_is_noticed(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    with left_in(tmp_path / "here") as nonce:
        answer = look_around(Question(str(tmp_path / "there"), nonce))
    assert answer.folder == "not shared: the driver's file is not there"


@pytest.mark.parametrize("method", ["write_text", "replace", "hardlink_to"])
def test_a_folder_that_cannot_do_what_results_need_is_noticed(method, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    with left_in(tmp_path) as nonce:
        monkeypatch.setattr(Path, method, refuse)
        answer = look_around(Question(str(tmp_path), nonce))
        monkeypatch.undo()
    assert answer.folder.startswith("cannot be written, renamed and linked in (Operation not permitted")


def test_what_goes_wrong_with_the_data_is_the_answer(tmp_path):
    def missing():
        raise FileNotFoundError("no images below data/\nmore")

    with left_in(tmp_path) as nonce:
        assert look_around(Question(str(tmp_path), nonce, split_hash=missing)).data == (
            "FileNotFoundError: no images below data/"
        )
