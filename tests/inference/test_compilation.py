"""inference.compilation: a second start finds what the first one compiled."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from maskgit_sr.inference import compilation

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
def hits():
    found = []

    def listen(event, **_):
        if event == "/jax/compilation_cache/cache_hits":
            found.append(event)

    jax.monitoring.register_event_listener(listen)
    yield found
    jax.monitoring.unregister_event_listener(listen)


def test_what_was_compiled_is_found_again(settings, hits):
    folder = compilation.keep()
    assert folder.is_dir() and folder.is_relative_to(settings / "maskgit_sr")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

    def program(x):
        return jnp.sin(x) * 3 + jnp.cumsum(x)

    first = jax.jit(program)(jnp.arange(7.0))
    kept = sorted(folder.glob("*-cache"))
    assert kept and not hits
    jax.clear_caches()
    second = jax.jit(program)(jnp.arange(7.0))
    assert hits and sorted(folder.glob("*-cache")) == kept
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
