"""Restores any number of photographs on a distributed engine, or on this machine.

    maskgit-sr batch --input 'photos/**' --output restored
    maskgit-sr batch --input gs://BUCKET/photos --output gs://BUCKET/restored \\
        --runner DataflowRunner --project P --region R --temp_location gs://BUCKET/tmp

Every option that is not listed below goes to Apache Beam, whose --runner chooses the engine. What
is there already is skipped, so the same command goes on after a run that was stopped. Images that
cannot be read, restored or written are listed with the reason in OUTPUT/failed.jsonl.

Exit codes: 0 all done; 1 some images failed; 2 a mistake in the request, told in one line; 130
interrupted. Anything else is a defect of the program and keeps its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import signal
import sys
import threading
import types
from typing import Any

from maskgit_sr import paths
from maskgit_sr.errors import UserError, any_text, one_line, printable
from maskgit_sr.images import MAX_PIXELS
from maskgit_sr.images.inputs import PassedOver
from maskgit_sr.inference import DEFAULT_MODEL, load, options

_NAME = "launch.beam_upscale"
PACK = 4  # device calls' worth of tiles in a batch: at most a fifth of them is filled up
SHOWN = 10  # failures told one by one
DEVICES = ("cpu", "gpu", "tpu")
LOCAL = ("directrunner", "fnapirunner", "prismrunner")


def parser(prog: str = _NAME) -> argparse.ArgumentParser:
    """Returns the parser of the options that are not Beam's."""
    found = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # what is left over is for Beam
    )
    add = found.add_argument
    add("--input", nargs="+", required=True, help="images, folders or patterns")
    add("--output", required=True, help="folder, made if need be")
    add("--model", default=DEFAULT_MODEL, help="name of a bundle, or its path, also in a bucket")
    add("--scale", type=float, help="output size over input size (default: the method's)")
    add("--steps", type=int, help="decoding steps (default: the model's)")
    add("--seed", type=int, default=0)
    add("--temperature", type=float, help="randomness of the tokens")
    add(
        "--consistent", type=float, metavar="EPS", help="grey levels to which outputs return inputs"
    )
    add("--color_fix", help="adain | wavelet | none (default: the method's)")
    many: Any = {"action": "append", "default": [], "metavar": "NAME=VALUE"}
    add("--option", help="another option of the method; repeatable", **many)
    add("--format", default="png", help="png, jpg, webp or tif")
    add("--suffix", help="appended to names (default: none, _x4 beside the input)")
    add("--max_pixels", type=int, default=MAX_PIXELS, help="larger inputs fail")
    add("--batch", type=int, help="tiles a device call (default: 1 on CPU, 32 else)")
    add("--device", help=f"of the workers: {' | '.join(DEVICES)} (default: the best there is)")
    add("--dtype", help="float32 | bfloat16 (default: by device)")
    add("--overwrite", action="store_true", help="restore also what is there already")
    return found


def main(argv: list[str] | None = None, prog: str = _NAME) -> int:
    """Runs the command, called `prog`; a user's mistake gives one line and exit code 2."""
    any_text()  # before --help
    given, rest = parser(prog).parse_known_args(argv)
    stopped = threading.Event()

    def stop(number: int, frame: types.FrameType | None) -> None:
        stopped.set()
        logging.disable()  # every step of Beam that it passes through would log it
        signal.default_int_handler(number, frame)

    before = signal.getsignal(signal.SIGINT)
    loggers = [logging.getLogger(name) for name in (None, "maskgit_sr")]
    logs = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    if before is signal.default_int_handler:  # a handler of the caller's stays
        signal.signal(signal.SIGINT, stop)
    try:
        with one_line(prog):
            return _run(given, rest, prog)
    except (Exception, KeyboardInterrupt):  # a worker in this process raises another for it
        if not stopped.is_set():
            raise
        _say(prog, "interrupted; the same command goes on")
        return 130
    finally:
        signal.signal(signal.SIGINT, before)
        logging.disable(logging.NOTSET)
        for logger, level, handlers in logs:  # a caller has its own settings
            logger.setLevel(level)
            logger.handlers[:] = handlers


def _check(given: argparse.Namespace) -> None:
    """Raises UserError for values that are out of range for every model."""
    if not 0 <= given.seed < 2**32:
        raise UserError(f"--seed: expected 0 to {2**32 - 1}, found {given.seed}")
    if given.batch is not None and given.batch < 1:
        raise UserError(f"--batch: expected at least 1, found {given.batch}")
    if given.device not in (None, *DEVICES):
        raise UserError(f"--device: expected one of {', '.join(DEVICES)}, found '{given.device}'")
    if given.consistent is not None:
        options.check_consistent(given.consistent, given.scale)
        if given.format not in ("png", "tif"):
            raise UserError(f"--consistent: expected --format png or tif, found '{given.format}'")
    if not 1 <= given.max_pixels <= MAX_PIXELS:
        raise UserError(f"--max_pixels: expected 1 to {MAX_PIXELS}, found {given.max_pixels}")


def _run(given: argparse.Namespace, rest: list[str], prog: str) -> int:
    _check(given)
    try:
        logging.getLogger().setLevel(logging.ERROR)  # it warns of clouds that nobody asked for
        import apache_beam.io.filesystems  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"Apache Beam is missing: pip install 'maskgit-sr[beam]' ({error})"
        ) from None
    from maskgit_sr.batch import listing, stages, storage

    pipeline, runner = _pipeline(rest)
    level = logging.ERROR if runner in LOCAL else logging.INFO
    logging.basicConfig(level=level, format="%(name)s: %(message)s", force=True)
    logging.getLogger("maskgit_sr").setLevel(logging.INFO)  # notes on images
    if runner == "dataflowrunner":
        _check_remote(given)
    # Loaded here too: a mistake or a damaged bundle is found before workers are paid for. The
    # device is that of the workers, which need not be here.
    device = given.device if runner in LOCAL else None
    upscaler = load.load(given.model, batch=given.batch, device=device, dtype=given.dtype)
    shortcuts = {name: getattr(given, name) for name in ("steps", "temperature", "color_fix")}
    chosen = options.parse(options.split(given.option, **shortcuts), upscaler)
    upscaler.options(confidence=False, **chosen)
    # remote workers choose by their own device, and count as accelerators here
    batch = upscaler.batch if runner in LOCAL else given.batch
    settings = stages.Settings(
        model=given.model,
        tile=upscaler.method.tile,
        # calls of one tile cannot be shared by images
        pack=1 if batch == 1 else PACK * (batch or 32),
        batch=batch,
        device=given.device,
        dtype=given.dtype,
        scale=upscaler.scale(given.scale),
        consistent=given.consistent,
        seed=given.seed,
        options=chosen,
        max_pixels=given.max_pixels,
        overwrite=given.overwrite,
    )
    del upscaler  # workers in this process load their own
    passed = PassedOver()
    plan = listing.plan(
        given.input,
        given.output,
        format=given.format,
        suffix=given.suffix,
        scale=settings.scale,
        overwrite=given.overwrite,
        passed=passed,
    )
    for told in passed.lines():
        _say(prog, told)
    report = f"{plan.folder}/failed.jsonl"
    # an earlier run's report is out of date, and its parts nobody will finish
    for path in [*plan.parts, report]:
        if storage.exists(path):
            storage.delete(path)
    failures: list[dict[str, str]] = []
    if plan.todo:
        stages.build(pipeline, plan.todo, settings, report)
        pipeline.run().wait_until_finish()
        if storage.exists(report):  # by lines of "\n" alone: names may hold Unicode's others
            failures = [json.loads(line) for line in storage.read(report).split(b"\n") if line]
    for failure in failures[:SHOWN]:
        _say(prog, f"{failure['source']}: {failure['reason']}")
    if len(failures) > SHOWN:
        _say(prog, f"{len(failures) - SHOWN} more failures in {report}")
    restored = len(plan.todo) - len(failures)
    failed = len(failures) + len(passed.problems)
    print(f"{restored} restored, {plan.skipped} skipped, {failed} failed")
    return 1 if failed else 0


def _pipeline(rest: list[str]) -> tuple[Any, str]:
    """Returns an empty pipeline with Beam's options, and the name of its runner in small letters.

    Raises:
        UserError: a value or runner that Beam rejects, or an option that it would ignore.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):  # the usage, of two hundred options
            options = PipelineOptions(rest)
            known = options.get_all_options()
            unknown = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
    except SystemExit:
        raise UserError(told.getvalue().strip().rpartition("error: ")[2]) from None
    standard = options.view_as(StandardOptions)
    runner = (standard.runner or StandardOptions.DEFAULT_RUNNER).lower()
    runner = runner if runner.endswith("runner") else f"{runner}runner"
    # A job server of Flink or Spark has options of its own, which only it knows.
    if unknown and not runner.startswith(("flink", "spark", "portable")):
        raise UserError(f"--{sorted(unknown)[0]}: neither an option of this command nor of Beam")
    if runner == "directrunner":
        # The one that it ends up with. By its own name it first tries to download a server from the
        # internet and to run that.
        standard.runner = "FnApiRunner"
    try:
        return beam.Pipeline(options=options), runner  # hands the options to the file systems, too
    except (ValueError, ImportError) as error:
        raise UserError(f"--runner: {' '.join(str(error).split())}") from None


def _check_remote(given: argparse.Namespace) -> None:
    shipped = load.shipped()  # which workers have, too
    for option, values in (("input", given.input), ("output", [given.output])):
        for value in values:
            if not paths.is_remote(value):
                raise UserError(f"--{option}: workers of Dataflow need gs://…, found '{value}'")
    if given.model not in shipped and not paths.is_remote(given.model):
        raise UserError(f"--model: workers of Dataflow need gs://…, found '{given.model}'")


def _say(prog: str, line: str) -> None:
    print(f"{prog}: {printable(line)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
