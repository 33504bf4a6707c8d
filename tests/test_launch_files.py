"""The launch files of docs/launch are well formed and start what there is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from alexatm_jax import main
from alexatm_jax.cluster import CLUSTERS

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "docs" / "launch"
FILES = sorted(path.name for path in LAUNCH.iterdir())


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith(".yaml")])
def test_shell_files_are_shell(name):
    done = subprocess.run(["bash", "-n", LAUNCH / name], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr


def test_every_pod_of_the_jobset_is_one_process():
    yaml = pytest.importorskip("yaml")
    (jobset,) = yaml.safe_load_all((LAUNCH / "gke_jobset.yaml").read_text())
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    chips = 1
    for side in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"):
        chips *= int(side)
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"]
    assert spec["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == chips


@pytest.mark.parametrize("name", FILES)
def test_launch_files_name_what_there_is(name):
    text = (LAUNCH / name).read_text()
    (gin_file,) = re.findall(r"--gin_file=(\S+)", text)
    assert (ROOT / "gin" / gin_file).is_file()
    assert set(re.findall(r"--cluster=(\w+)", text)) <= set(CLUSTERS)
    flags = re.findall(r"--(\w+)=", text[text.index("--run_mode") :])
    assert len(flags) == 3 and set(flags) <= set(main.FLAGS)
