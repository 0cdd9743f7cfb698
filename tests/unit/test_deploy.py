"""The files under deploy/ have the form that Ray, KubeRay and bash ask for, and keep the house rules of safety."""

import json
import re
import shlex
import shutil
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from jsonschema import Draft7Validator
from ruamel.yaml import YAML

from study import launch

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = ("cluster.yaml", "rayjob.yaml", "slurm.sh")


def document(name):
    return YAML(typ="safe").load((DEPLOY / name).read_text())


def starts(name):
    """Return the `ray start` commands of a file, whole."""
    if name == "cluster.yaml":
        cluster = document(name)
        commands = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    else:
        commands = re.sub(r"\\\n\s*", " ", (DEPLOY / name).read_text()).splitlines()
    return [line for line in commands if re.search(r'ray"? start', line)]


def test_the_cluster_file_fits_the_schema_of_the_installed_ray():
    home = Path(find_spec("ray").origin).parent
    schema = json.loads((home / "autoscaler" / "ray-schema.json").read_text())
    errors = [error.message for error in Draft7Validator(schema).iter_errors(document("cluster.yaml"))]
    assert errors == []
    broken = {**document("cluster.yaml"), "worker_ips": []}
    assert list(Draft7Validator(schema).iter_errors(broken))  # the schema would have said so


def test_the_ray_job_has_the_keys_of_its_kind():
    job = document("rayjob.yaml")
    spec = job["spec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(spec) == {
        "entrypoint",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
        "backoffLimit",
        "rayClusterSpec",
    }
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == version("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    for group in (head, workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in pod["volumes"]}
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]


def test_the_submitters_shell_hands_the_whole_entrypoint_to_ray_and_it_runs_in_the_checkout(tmp_path):
    """KubeRay's submitter runs `ray job submit -- ENTRYPOINT` in bash; here `ray` prints what it is given."""
    spec = document("rayjob.yaml")["spec"]
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\n[ "$2" = submit ] && printf "%s\\n" "$@"\n')
    ray.chmod(0o755)
    script = f"if ! ray job status x; then ray job submit --no-wait -- {spec['entrypoint']} ; fi"
    bash, alone = ["/bin/bash", "-c", script], {"PATH": str(tmp_path)}
    done = subprocess.run(bash, env=alone, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    given = done.stdout.splitlines()
    assert given[given.index("--") + 1 :] == shlex.split(spec["entrypoint"])
    assert given[given.index("--") + 1 :][:3] == ["python", "-m", "study.launch"]
    for group in (spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]):
        assert [each["workingDir"] for each in group["template"]["spec"]["containers"]] == ["/nodekd"]


def test_the_slurm_script_is_bash():
    done = subprocess.run(["bash", "-n", DEPLOY / "slurm.sh"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", DEPLOY / "slurm.sh"], check=True)


@pytest.mark.parametrize("name", ["cluster.yaml", "slurm.sh"])
def test_no_ray_starts_without_a_token_or_with_an_open_dashboard(name):
    text, commands = (DEPLOY / name).read_text(), starts(name)
    heads = [command for command in commands if "--head" in command]
    assert (len(commands), len(heads)) == (2, 1)
    assert "--dashboard-host=127.0.0.1" in heads[0]
    assert "--num-cpus=0" in heads[0]
    for wanted in ("RAY_AUTH_MODE=token", "RAY_USAGE_STATS_ENABLED=0"):
        assert all(wanted in command for command in commands) or f"export {wanted}" in text
    protected = text.index("chmod 600")
    assert protected < text.index("start --head")


def test_telemetry_is_off_on_kubernetes():
    cluster = document("rayjob.yaml")["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for container in (each for group in groups for each in group["template"]["spec"]["containers"]):
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]


@pytest.mark.parametrize("name", FILES)
def test_each_file_begins_with_two_commands_and_launches_as_the_command_line_allows(name):
    text = (DEPLOY / name).read_text()
    head = text.partition("\n\n")[0] if name == "slurm.sh" else text
    assert "The two commands" in head
    launched = re.sub(r"\s*\\\n#?\s*", " ", text).replace('"$@"', "search_spaces/kd.yaml")
    (words,) = set(re.findall(r"study\.launch ([^'\n]*?)(?:'| &|$)", launched, re.MULTILINE))
    given = [word.strip("\"'") for word in words.split()]
    options = launch._parse(given)
    assert options.address
    assert options.space == Path("search_spaces/kd.yaml")
