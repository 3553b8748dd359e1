"""`maskgit-sr study` and `maskgit-sr fool-rate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskgit_sr.cli.messages import bar, plain_table, reporting, say, show
from maskgit_sr.cli.options import check_number
from maskgit_sr.errors import UserError


def study(
    folders: Annotated[
        list[str], typer.Argument(metavar="DIR…", help="Outputs of a system, a folder each.")
    ],
    hr: Annotated[str, typer.Option("--hr", help="Folder of references.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the page.")
    ],
    lr: Annotated[
        str | None, typer.Option("--lr", help="Folder of the inputs, which task 1 shows.")
    ] = None,
    task: Annotated[
        int | None,
        typer.Option(metavar="1|2", help="With the inputs, or without. (default: 1 with --lr)"),
    ] = None,
    seconds: Annotated[float, typer.Option(help="For which a pair is shown.")] = 3,
    trials: Annotated[int, typer.Option(help="Pairs that a subject sees.")] = 50,
    crop: Annotated[
        int, typer.Option(help="Show a square of this side from the centre; 0: all.")
    ] = 0,
    limit: Annotated[int | None, typer.Option(help="Only the first so many pictures.")] = None,
) -> None:
    """Make a page on which people tell photographs from outputs."""
    with reporting():
        if task not in (None, 1, 2):
            raise UserError(f"--task: expected 1 or 2, found {task}")
        if not 0.05 <= seconds <= 3600:
            raise UserError(f"--seconds: expected 0.05 to 3600, found {seconds:g}")
        check_number("--trials", trials, 1)
        check_number("--crop", crop, 0)
        check_number("--limit", limit, 1)
        task = task or (1 if lr is not None else 2)
        if task == 1 and lr is None:
            raise UserError("--task 1: needs --lr, which it shows")
        systems = [Path(folder).resolve().name for folder in folders]
        if twice := [name for name in systems if systems.count(name) > 1]:
            raise UserError(f"study: expected folders of different names, found '{twice[0]}' twice")
        from maskgit_sr.evaluation.study import page
        from maskgit_sr.images import files, pairing

        passed = files.PassedOver()
        entries, problems = pairing.match_samples(folders, hr, lr, passed)
        entries = entries[:limit]
        for line in (*passed.lines(), *problems):
            say(line)
        with bar("study", len(entries)) as move:
            path, scenes, lost = page.write(
                output,
                entries,
                systems,
                task=task,
                seconds=seconds,
                trials=trials,
                crop=crop,
                progress=move,
            )
        for line in lost:
            say(line)
        size = path.stat().st_size / 1e6
        shown = min(trials, scenes)
        typer.echo(f"{path} ({size:.1f} MB): task {task}, {page.QUESTIONS[task]}")
        typer.echo(
            f"  {scenes} scene{'s'[: scenes != 1]}, of which a subject sees {shown} once for "
            f"{seconds:g} s, "
            f"beside an output of {' or '.join(systems)}"
        )
        if shown < len(systems):
            say(f"a subject sees fewer scenes ({shown}) than there are systems ({len(systems)})")
        raise typer.Exit(1 if problems or lost else 0)


def fool_rate(
    files: Annotated[list[Path], typer.Argument(metavar="CSV…", help="Answers to a study.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="JSON", help="Write the rates, and each picture's."),
    ] = None,
) -> None:
    """Tell how often people took an output for the photograph."""
    with reporting():
        from maskgit_sr.evaluation.study import answers

        result = answers.rates(answers.read(files))
        if output is not None:
            answers.write(result, output)
        table = plain_table(
            *("", "task", "seconds", "fool rate", "95 % interval", "answers"),
            *("subjects", "mean of subjects", "left chosen"),
        )
        for found in result["rates"]:
            table.add_row(
                found["system"],
                str(found["task"]),
                found["seconds"],
                f"{found['rate']:.1%}",
                f"{found['low']:.1%} – {found['high']:.1%}",
                str(found["n"]),
                str(found["subjects"]),
                f"{found['subject_mean']:.1%}",
                f"{found['left']:.1%}",
            )
        show(table)
        typer.echo("fool rate: share of answers that took the output for the photograph; 50 %: not")
        typer.echo("told apart; interval: Wilson's, as if all answers were independent")
        if len(result["studies"]) > 1:
            say(f"answers to {len(result['studies'])} studies, whose pictures differ, are pooled")
