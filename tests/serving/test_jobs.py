"""Jobs: work that outlives its connection, begun once, watched by whoever has its id, then gone."""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

from maskgit_sr import images
from maskgit_sr.images import from_bytes
from maskgit_sr.serving.jobs import WATCHERS
from tests.serving.models import Watched, flat, subpixel
from tests.serving.serving import LONG, PICTURES, RGB, expect_error, expected, png, serve, until

LARGE = png(flat(30, 30, 7))


@pytest.fixture(scope="module")
def upscaler():
    return Watched(batch=3)


@pytest.fixture(scope="module")
def running(upscaler):
    """A server with the usual limits."""
    with serve(upscaler) as found:
        yield found


@pytest.fixture
def served(running, upscaler):
    """The same, without anything of the test before."""
    upscaler.reset()
    yield running
    upscaler.gate.set()
    until(lambda: running.service.requests == 0)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as found:
        yield found


def begin(served, data=RGB, key="", **parameters):
    """The id of a new job."""
    headers = {"Idempotency-Key": key} if key else {}
    answer = served.client.post("/jobs", params=parameters, content=data, headers=headers)
    assert answer.status_code == 202, answer.text
    found = answer.json()["id"]
    assert answer.headers["location"] == f"/jobs/{found}" and re.fullmatch("[0-9a-f]{32}", found)
    return found


def look(served, job):
    return served.client.get(f"/jobs/{job}").json()


def events(served, job):
    """All states of a job until its end."""
    with served.client.stream("GET", f"/jobs/{job}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def finish(served, job):
    return events(served, job)[-1]


def fetch(served, job, what="result"):
    return served.client.get(f"/jobs/{job}/{what}")


@pytest.mark.parametrize("name", ["rgb", "alpha", "16 bits", "gif"])
def test_a_result_is_the_upscalers(served, upscaler, name):
    data = PICTURES[name]
    job = begin(served, data, scale=2.5)
    last = finish(served, job)
    answer = fetch(served, job)
    assert answer.content == expected(upscaler, data, scale=2.5) == fetch(served, job).content
    assert answer.headers["content-type"] == "image/png"
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == (
        "no-store",
        "nosniff",
    )
    tiles = upscaler.mosaic(from_bytes(data), upscaler.options()).count
    assert (last["state"], last["done"], last["tiles"]) == ("done", tiles, tiles)
    assert last["bytes"] == len(answer.content) and last["format"] == "png"
    assert last["notes"] == (["animated: first frame used"] if name == "gif" else [])
    expect_error(fetch(served, job, "confidence"), 409, "no map of confidence")


def test_progress_is_told_tile_by_tile(served, upscaler, pool):
    upscaler.hold()
    job = begin(served, LARGE)
    following = pool.submit(events, served, job)
    assert upscaler.entered.wait(LONG)
    until(lambda: look(served, job)["state"] == "restoring")
    expect_error(fetch(served, job), 409, "the job is not done: restoring")
    assert look(served, job)["done"] == 0 and "seconds_left" not in look(served, job)
    upscaler.breaks = lambda lr: time.sleep(0.04)
    upscaler.gate.set()
    states = following.result(LONG)
    done = [state["done"] for state in states]
    assert done == sorted(done) and done[-1] == states[-1]["tiles"] == 49
    assert len(set(done)) > 3 and any(state.get("seconds_left", 0) > 0 for state in states)
    assert {state["state"] for state in states} <= {
        "queued",
        "decoding",
        "restoring",
        "finishing",
        "done",
    }


def test_new_options_are_compiled_first():
    slow, entered = threading.Event(), threading.Event()
    upscaler = subpixel(batch=1)
    run = upscaler.run

    def wait(*given):
        entered.set()
        assert slow.wait(LONG)
        return run(*given)

    with serve(upscaler) as served:
        upscaler.run = wait
        job = begin(served, color_fix="adain")
        assert entered.wait(LONG)
        until(lambda: look(served, job)["state"] == "compiling")
        slow.set()
        assert finish(served, job)["state"] == "done"


def test_a_connection_that_comes_back_finds_the_state_at_once(served, upscaler):
    upscaler.hold()
    job = begin(served, LARGE)
    assert upscaler.entered.wait(LONG)
    until(lambda: look(served, job)["state"] == "restoring")
    for _ in range(3):
        with served.client.stream("GET", f"/jobs/{job}/events") as answer:
            first = json.loads(next(answer.iter_lines()).removeprefix("data: "))
            assert (first["state"], first["tiles"]) == ("restoring", 49)
    upscaler.gate.set()
    assert finish(served, job) == look(served, job)
    assert [state["state"] for state in events(served, job)] == ["done"]


def test_a_further_stream_ends_the_first(served, upscaler, pool):
    upscaler.hold()
    job = begin(served, LARGE)
    streams = [pool.submit(events, served, job) for _ in range(WATCHERS + 1)]
    until(lambda: any(stream.done() for stream in streams))
    assert sum(stream.done() for stream in streams) == 1
    upscaler.gate.set()
    ends = sorted(stream.result(LONG)[-1]["state"] for stream in streams)
    assert ends[:WATCHERS] == ["done"] * WATCHERS and ends[-1] != "done"


def test_confidence(served, upscaler):
    data = PICTURES["alpha"]
    restored = upscaler.restore(from_bytes(data))
    job = begin(served, data, confidence="true", format="webp", quality=40)
    mean = finish(served, job)["confidence"]
    assert mean == pytest.approx(restored.confidence.mean(), abs=1e-4)
    answer = fetch(served, job, "confidence")
    grey = images.from_confidence(restored.confidence, *restored.confidence.shape)
    np.testing.assert_array_equal(from_bytes(answer.content).color[..., 0], grey.color[..., 0])
    assert answer.headers["content-type"] == "image/png"
    assert fetch(served, job).content == expected(upscaler, data, "WEBP", 40)


@pytest.mark.parametrize(
    ("data", "parameters", "status"),
    [
        (b"no picture", {}, 415),
        (png(flat(90, 90, 1)), {}, 413),
        (PICTURES["alpha"], {"format": "jpeg"}, 400),
    ],
)
def test_a_failure_is_that_of_upscale(upscaler, data, parameters, status):
    with serve(upscaler, pixels=4_000) as served:
        refused = served.upscale(data, **parameters)
        assert refused.status_code == status
        job = begin(served, data, **parameters)
        last = finish(served, job)
        assert (last["state"], last["status"], last["error"]) == (
            "failed",
            status,
            refused.json()["error"],
        )
        expect_error(fetch(served, job), status, refused.json()["error"])
        assert served.metric(f'maskgit_sr_jobs_total{{status="{status}"}}') == 1


def test_a_mistake_begins_nothing(upscaler):
    with serve(upscaler, bytes=60_000) as served:
        post = served.client.post
        expect_error(post("/jobs?scale=40", content=RGB), 422, "scale: Input should be less")
        expect_error(post("/jobs?alpha=1", content=RGB), 422, "alpha: unknown, expected one of")
        expect_error(post("/jobs", content=bytes(60_001)), 413, "limit of 60,000 bytes")
        expect_error(post("/jobs", files={"file": RGB}), 415, "expected the image itself")
        for path in ("", "/events", "/result", "/confidence"):
            expect_error(served.client.get(f"/jobs/{'0' * 32}{path}"), 404, "no such job")
        expect_error(served.client.delete("/jobs/no"), 404, "no such job")
        assert served.service.requests == served.service.transfers.held == 0


def test_a_request_that_is_repeated_begins_one_job(served, upscaler, pool):
    upscaler.hold()
    same = [pool.submit(begin, served, LARGE, "a key", scale=2) for _ in range(4)]
    jobs = {one.result(LONG) for one in same}
    assert len(jobs) == 1 and begin(served, LARGE, "another key", scale=2) not in jobs
    answer = served.client.post(
        "/jobs?scale=3", content=LARGE, headers={"Idempotency-Key": "a key"}
    )
    expect_error(answer, 422, "Idempotency-Key: was used with other parameters")
    assert served.service.requests == 2
    upscaler.gate.set()
    (job,) = jobs
    assert finish(served, job)["state"] == "done"
    assert begin(served, LARGE, "a key", scale=2) == job  # afterwards, too
    served.client.delete(f"/jobs/{job}")
    assert begin(served, LARGE, "a key", scale=2) != job


def test_deleting_a_job_ends_its_work(served, upscaler, pool):
    upscaler.hold()
    job = begin(served, LARGE)
    assert upscaler.entered.wait(LONG)
    following = pool.submit(events, served, job)
    until(lambda: look(served, job)["state"] == "restoring")
    assert served.client.delete(f"/jobs/{job}").status_code == 204
    assert following.result(LONG)[-1]["state"] == "cancelled"
    until(lambda: served.service.requests == 0)
    assert served.metric("maskgit_sr_tiles_waiting") == 0
    expect_error(fetch(served, job), 404, "no such job")
    upscaler.gate.set()
    served.check(RGB)
    assert served.metric('maskgit_sr_jobs_total{status="cancelled"}') >= 1


def test_a_job_whose_client_is_gone_is_finished_and_expires(upscaler):
    with serve(upscaler, keep=0.4) as served:
        job = begin(served, LARGE)
        until(lambda: look(served, job).get("state") in ("done", None))
        assert served.service.transfers.held > 0
        until(lambda: served.client.get(f"/jobs/{job}").status_code == 404)
        assert served.service.transfers.held == 0 and not served.service.transfers._holding


def test_jobs_take_places_and_the_oldest_result_gives_way(upscaler):
    with serve(upscaler, requests=2) as served:
        upscaler.hold()
        first, second = begin(served, LARGE), begin(served)
        answer = served.client.post("/jobs", content=RGB)
        expect_error(answer, 429, "too busy: 2 requests are being served")
        assert int(answer.headers["retry-after"]) >= 1
        served.refuse(RGB, 429, "too busy: 2 requests are being served")
        upscaler.gate.set()
        assert {finish(served, job)["state"] for job in (first, second)} == {"done"}
        third = begin(served)
        assert finish(served, third)["state"] == "done"
        left = [fetch(served, job).status_code for job in (first, second)]
        assert sorted(left) == [200, 404]


def test_results_give_their_bytes_to_bodies(upscaler):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    data = png(noise)  # of 11 kB, as its result is of 30
    with serve(upscaler, bytes=40_000, total_bytes=50_000) as served:
        job = begin(served, data)
        size = finish(served, job)["bytes"]
        assert size > 15_000 and served.service.transfers.held == size
        until(lambda: served.upscale(RGB + bytes(39_000)).status_code == 200)
        expect_error(fetch(served, job), 404, "no such job")


def test_a_job_has_its_time(upscaler):
    with serve(upscaler, job_timeout=0.2) as served:
        upscaler.hold()
        last = finish(served, begin(served, LARGE))
        assert (last["status"], last["error"]) == (504, "no result within 0.2 s")
        until(lambda: served.service.requests == 0)
        assert served.metric("maskgit_sr_tiles_waiting") == 0
    with serve(upscaler, timeout=0.2) as served:  # that of a request is not the job's
        upscaler.hold()
        job = begin(served, LARGE)
        assert upscaler.entered.wait(LONG)
        time.sleep(0.4)
        upscaler.gate.set()
        assert finish(served, job)["state"] == "done"


def test_too_many_pixels_at_a_time_is_told_with_the_wait(upscaler):
    with serve(upscaler, pixels=4_000, total_pixels=5_000) as served:
        upscaler.hold()
        first = begin(served, png(flat(50, 60, 9)))
        assert upscaler.entered.wait(LONG)
        last = finish(served, begin(served, png(flat(50, 60, 9))))
        assert last["status"] == 429 and last["retry_after"] >= 1
        assert "images of 3,000 pixels are being restored" in last["error"]
        upscaler.gate.set()
        assert finish(served, first)["state"] == "done"


def test_a_broken_call_fails_its_job_alone(served, upscaler, caplog):
    upscaler.breaks = lambda lr: (lr == np.float32(7) / 255).all((1, 2, 3)).any()
    last = finish(served, begin(served, LARGE))
    assert (last["status"], last["error"]) == (
        500,
        "the image could not be restored (RuntimeError)",
    )
    assert finish(served, begin(served))["state"] == "done"
    assert "the device\nis broken" in caplog.text


def test_a_stop_fails_what_is_left(upscaler, pool):
    with serve(upscaler) as served:
        upscaler.hold()
        job = begin(served, LARGE)
        until(lambda: served.metric("maskgit_sr_tiles_waiting"))
        closing = pool.submit(served.service.close)
        until(lambda: not served.metric("maskgit_sr_tiles_waiting"))
        expect_error(served.client.post("/jobs", content=RGB), 503, "the server is stopping")
        upscaler.gate.set()
        last = finish(served, job)
        assert (last["status"], last["error"]) == (503, "the server is stopping")
        assert last["retry_after"] == 5
        closing.result(LONG)


def test_jobs_ask_for_the_token(upscaler):
    with serve(upscaler, token="secret") as served:
        assert served.client.get("/info").json()["token"] is True
        post = served.client.post("/jobs?scale=none", content=RGB)
        expect_error(post, 401, "bearer token")
        served.client.headers["Authorization"] = "Bearer secret"
        job = begin(served)
        assert finish(served, job)["state"] == "done"
        del served.client.headers["Authorization"]
        for path in ("", "/events", "/result", "/confidence", "%0A"):
            expect_error(served.client.get(f"/jobs/{job}{path}"), 401, "bearer token")
        expect_error(served.client.delete(f"/jobs/{job}"), 401, "bearer token")
        served.client.headers["Authorization"] = "Bearer secret"
        assert fetch(served, job).content == expected(upscaler, RGB)
