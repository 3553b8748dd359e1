"""launch/gcp/dataflow.sh: launch.beam_upscale and Beam know what it would run."""

import shlex
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("apache_beam", reason="needs apache-beam")
from apache_beam.options.pipeline_options import PipelineOptions

from maskgit_sr.batch import command

ROOT = Path(__file__).resolve().parents[2]
WHERE = ["--project=p", "--region", "r", "--image", "r/i:1"]
JOB = [*WHERE, "--input", "gs://b/photos/**", "--output", "gs://b/out"]
SUFFIX = ["--suffix", "it's big"]


def dataflow(*words):
    words = ["bash", str(ROOT / "launch/gcp/dataflow.sh"), *words, "--dry-run", "--", *SUFFIX]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()


def test_dry_run_prints_a_command_that_every_parser_knows():
    more = ["--accelerator", "nvidia-l4", "--network=n", "--service-account", "s@p"]
    *build, job = (shlex.split(line) for line in dataflow("all", *JOB, *more))
    assert {words[0] for words in build} == {"docker"}
    assert job[1:3] == ["-m", "launch.beam_upscale"]
    given, rest = command.parser().parse_known_args(job[3:])
    assert given.input == ["gs://b/photos/**"] and given.output == "gs://b/out"
    assert given.suffix == "it's big"
    options = PipelineOptions(rest)
    known = options.get_all_options(drop_default=True)
    assert known == options.get_all_options(drop_default=True, retain_unknown_options=True)
    assert known == {
        **{"runner": "DataflowRunner", "project": "p", "region": "r", "job_name": "maskgit-sr"},
        **{"temp_location": "gs://b/out/.dataflow", "machine_type": "g2-standard-8"},
        **{"max_num_workers": 16, "sdk_container_image": "r/i:1", "sdk_location": "container"},
        **{"experiments": ["no_use_multiple_sdk_containers"]},
        **{"number_of_worker_harness_threads": 4, "network": "n", "service_account_email": "s@p"},
        "dataflow_service_options": [
            "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"
        ],
    }
    [plain] = dataflow("run", *JOB)
    assert "worker_accelerator" not in plain and "n2-standard-8" in plain
