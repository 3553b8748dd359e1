"""launch/gcp/dataflow.sh: what it would run, and that launch.beam_upscale and Beam know it."""

import shlex
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("apache_beam", reason="needs apache-beam")
from apache_beam.options.pipeline_options import PipelineOptions

from maskgit_sr.batch import command

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch/gcp/dataflow.sh"
WHERE = ["--project=p", "--region", "r", "--image", "r/i:1"]
JOB = [*WHERE, "--input", "gs://b/photos/**", "--output", "gs://b/out"]


def dataflow(*words):
    return subprocess.run(["bash", str(SCRIPT), *words], capture_output=True, text=True)


def test_dry_run_prints_a_command_that_every_parser_knows():
    done = dataflow(
        *("all", *JOB, "--accelerator", "nvidia-l4", "--network=n", "--service-account", "s@p"),
        *("--dry-run", "--", "--suffix", "it's big"),
    )
    assert done.returncode == 0, done.stderr
    *build, job = (shlex.split(line) for line in done.stdout.splitlines())
    assert [words[0] for words in build] == ["docker"] * 3
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
    plain = dataflow("run", *JOB, "--dry-run").stdout
    assert "worker_accelerator" not in plain and "n2-standard-8" in plain


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected a command (build, run, all), found ''"),
        (["build"], "--image is missing"),
        (["run", *WHERE], "--input is missing"),
        (["run", *JOB, "--output", "out"], "--output: expected gs://…, found 'out'"),
        (["run", *JOB, "--workers", "0"], "--workers: expected a number, found '0'"),
        (["run", *JOB, "--scale", "2"], "unknown option '--scale'"),
        (["run", "--project"], "--project: expected a value, found nothing"),
    ],
)
def test_a_mistake_in_the_script_is_one_line(words, message):
    done = dataflow(*words)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(f"dataflow: {message}") and done.stderr.count("\n") == 1
