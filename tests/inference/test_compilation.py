"""inference.compilation: a second start finds what the first one compiled."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import maskgit_sr
from maskgit_sr.inference import compilation
from tests.inference.pictures import noise

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """As a user has them who has set nothing; the session's own come back."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def events():
    """Names of what JAX's cache has told of: ``cache_hits``, ``compile_requests_use_cache``…"""
    found = []

    def listen(event, **_):
        if event.startswith("/jax/compilation_cache/"):
            found.append(event.split("/")[-1])

    jax.monitoring.register_event_listener(listen)
    yield found
    jax.monitoring.unregister_event_listener(listen)


def test_what_was_compiled_is_found_again(settings, events):
    folder = compilation.keep()
    assert folder.is_dir() and folder.is_relative_to(settings / "maskgit_sr")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

    def program(x):
        return jnp.sin(x) * 3 + jnp.cumsum(x)

    first = jax.jit(program)(jnp.arange(7.0))
    kept = sorted(folder.glob("*-cache"))
    assert kept and "cache_hits" not in events
    jax.clear_caches()
    second = jax.jit(program)(jnp.arange(7.0))
    assert "cache_hits" in events and sorted(folder.glob("*-cache")) == kept
    assert (first == second).all()


def test_it_also_starts_after_something_was_compiled(settings):
    jax.jit(lambda x: x + 1)(jnp.arange(3.0))
    folder = compilation.keep()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.jit(lambda x: x * 2 + 1)(jnp.arange(5.0))
    assert list(folder.glob("*-cache"))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("jax_compilation_cache_dir", "own"), ("jax_enable_compilation_cache", False)],
)
def test_what_the_user_has_set_stays(settings, setting, value):
    jax.config.update(setting, value)
    before = jax.config.jax_compilation_cache_dir
    assert compilation.keep() is None
    assert jax.config.jax_compilation_cache_dir == before
    assert not list(settings.rglob("compiled"))


def test_a_home_that_cannot_be_written_is_done_without(settings, monkeypatch):
    (settings / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(settings / "file"))
    assert compilation.keep() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_another_processor_has_another_folder(settings, monkeypatch):
    here = compilation.keep()
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(compilation.platform, "machine", lambda: "another")
    assert compilation.keep() != here


def test_a_picture_takes_one_program_which_the_next_start_finds(
    settings, events, monkeypatch, subpixel
):
    monkeypatch.setattr(compilation, "_LEAST_SECONDS", 0.0)
    results, kept = [], []
    for _ in range(2):
        jax.clear_caches()
        events.clear()
        upscaler = maskgit_sr.load(subpixel, batch=1)
        results.append(upscaler(noise(20, 30, 3), seed=3, noise=0.1).image)
        kept.append(sorted(settings.rglob("*-cache")))
        assert events.count("compile_requests_use_cache") == len(kept[-1]) == 1
    assert events.count("cache_hits") == 1 and kept[0] == kept[1]
    np.testing.assert_array_equal(*results)


def test_inference_imports_nothing_that_only_training_needs():
    others = "tensorflow orbax grain clu scipy tensorboardX ml_collections array_record matplotlib"
    rooms = "batch cli convert evaluation export metrics serving training".split()
    code = (
        "import sys, maskgit_sr.inference.load\n"
        f"heavy = {{*{others.split()}}} | {{f'maskgit_sr.{{room}}' for room in {rooms}}}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
