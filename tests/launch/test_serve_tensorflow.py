"""The files for TensorFlow Serving agree with each other and with the export."""

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "launch/serving/tensorflow"


def instructions():
    text = re.sub(r"\\\n", " ", (FOLDER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_the_server_compiles_the_network_and_waits_for_it():
    name, words = instructions()[-1]
    assert name == "ENTRYPOINT"
    # without the first, every request fails on a CPU
    assert "--xla_cpu_compilation_enabled=true" in words
    assert int(re.search(r"rest_api_timeout_in_ms=(\d+)", words)[1]) >= 300_000


def test_the_config_is_where_the_server_looks():
    found = instructions()
    [(source, target)] = [words.split() for name, words in found if name == "COPY"]
    assert (FOLDER.parents[2] / source).is_file()
    assert f"--model_config_file={target}{Path(source).name}" in found[-1][1]


def test_the_model_is_where_the_usage_mounts_it():
    config = (FOLDER / "models.config").read_text()
    [name] = re.findall(r'\bname: "(.+)"', config)
    [base] = re.findall(r'base_path: "(.+)"', config)
    usage = (FOLDER / "Dockerfile").read_text()
    assert base == f"/models/{name}"
    assert f"--output models/{name}/1" in usage and '-v "$PWD/models:/models:ro"' in usage
    assert config.count("{") == config.count("}")


def test_the_image_reads_the_artifact():
    [version] = [words for name, words in instructions() if name == "ARG"]
    served = tuple(map(int, version.removeprefix("VERSION=").split(".")[:2]))
    # text, as the module imports TensorFlow
    code = FOLDER.parents[2] / "maskgit_sr/export/savedmodel.py"
    [_, least] = re.search(r'MINIMUM = \("(.+)", "(.+)"\)', code.read_text()).groups()
    assert served >= tuple(map(int, least.split(".")))
