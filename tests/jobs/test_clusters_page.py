"""What docs/clusters.md shows for Kubernetes and Slurm is at least well formed, and each line of it is explained."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

PAGE = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text(encoding="utf-8")


def block_of(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.M | re.S)
    return str(found)


def test_the_rayjob_is_yaml_in_which_all_pods_see_the_source_and_the_head_alone_the_job() -> None:
    job = yaml.safe_load(block_of("yaml"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["entrypoint"].startswith("r3po run ")
    cluster = job["spec"]["rayClusterSpec"]
    head = cluster["headGroupSpec"]["template"]["spec"]
    (workers,) = (group["template"]["spec"] for group in cluster["workerGroupSpecs"])
    mounts = [
        {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]} for pod in (head, workers)
    ]
    assert mounts[0].keys() == {"job", "source"}
    assert mounts[1] == {"source": mounts[0]["source"]}
    for pod, mounted in zip((head, workers), mounts, strict=True):
        assert {volume["name"] for volume in pod["volumes"]} == mounted.keys()
    assert len({pod["containers"][0]["image"] for pod in (head, workers)}) == 1


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_slurm_script_is_a_script_of_bash() -> None:
    subprocess.run(["bash", "-n"], input=block_of("bash"), text=True, check=True)


def test_each_slurm_option_is_explained() -> None:
    script, explained = PAGE.partition("```bash")[2].split("```", 1)
    for option in re.findall(r"^#SBATCH (--[a-z-]+)", script, re.M):
        assert option in explained or option == "--job-name", option
