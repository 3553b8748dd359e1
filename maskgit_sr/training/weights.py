"""Sources of a stage's weights, and the file that it leaves for later stages."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from etils import epath

from maskgit_sr import bundles, paths
from maskgit_sr.arrays import Params
from maskgit_sr.errors import UserError
from maskgit_sr.methods.base import Method, Stage
from maskgit_sr.models.functional import flatten

_LOG = logging.getLogger(__name__)


def stage_file(workdir: epath.Path, stage: str) -> epath.Path:
    """Returns the path of the groups that a stage exports for later stages."""
    return workdir / stage / "groups.safetensors"


def part(groups: Params, path: str) -> Params:
    """Returns the subtree at ``group`` or ``group/inner/path``.

    Raises:
        KeyError: no such subtree.
    """
    for name in path.split("/"):
        groups = groups[name]
    return groups


def merged(groups: Params, parts: Mapping[str, Params]) -> Params:
    """Returns ``groups`` with subtrees replaced by those of ``parts``; nothing is mutated."""
    for path, tree in parts.items():
        group, _, inner = path.partition("/")
        new = merged(groups.get(group, {}), {inner: tree}) if inner else tree
        groups = {**groups, group: new}
    return groups


def collect(sources: Iterable[epath.Path], groups: Iterable[str]) -> tuple[Params, dict[str, Any]]:
    """Reads each of ``groups`` from the first of the stage files or bundles that has it.

    Files that do not exist are passed over.

    Returns:
        (groups found, training facts of the files by stage).
    """
    found: Params = {}
    facts: dict[str, Any] = {}
    wanted = set(groups)
    for path in sources:
        if not path.exists():
            continue
        # Arrays are read only while a group is missing; facts are in the header.
        if wanted - found.keys():
            params, metadata = bundles.read(path)
            for group in wanted & params.keys() - found.keys():
                found[group] = params[group]
        else:
            metadata = bundles.read_metadata(path)
        facts = metadata.training | facts  # of facts, too, the first file's count
    return found, facts


class MissingGroups(UserError):
    """Groups that a stage or a bundle needs and no earlier stage has produced.

    Attributes:
        groups: their names.
    """

    def __init__(self, groups: list[str], where: epath.Path):
        self.groups = groups
        super().__init__(
            f"{where}: needs trained {', '.join(groups)}: run the earlier stages in the same "
            "workdir or pass --config.init=BUNDLE"
        )


def require(found: Params, needed: Iterable[str], where: epath.Path) -> None:
    """Raises `MissingGroups` for groups that were not found."""
    missing = [group for group in needed if group not in found]
    if missing:
        raise MissingGroups(missing, where)


class Sources:
    """Weight files of a run: those of its stages, and the bundle that it started from.

    Args:
        stage: name of the stage to be trained.
        init: path of a bundle, or "".

    Raises:
        UserError: the bundle is missing or unreadable.
    """

    def __init__(self, method: Method, stage: str, workdir: epath.Path, init: str):
        self.method, self.workdir = method, workdir
        self.stage: Stage = method.stages[stage]
        names = list(method.stages)
        # Latest stage first, since `collect` takes a group from the first file that has it.
        self._stages = [stage_file(workdir, name) for name in reversed(names)]
        # A rerun must not continue from its own file or a later stage's.
        self._earlier = self._stages[len(names) - names.index(stage) :]
        self._init = [paths.absolute(init)] if init else []
        for path in self._init:
            bundles.read_metadata(path)  # raises; `collect` passes over files that are not there

    def frozen(self) -> tuple[Params, dict[str, Any]]:
        """Returns the groups that the stage needs, and the training facts of all files.

        A later stage may have trained a group further, so the latest stage that has it counts.

        Raises:
            UserError: a group is missing.
        """
        found, facts = collect([*self._stages, *self._init], self.stage.needs)
        require(found, self.stage.needs, self.workdir)
        return found, facts

    def initial(self) -> tuple[Params, Params]:
        """Returns (continued parts, groups of the bundle), both of which replace fresh weights.

        Raises:
            UserError: a group that the stage continues is missing.
        """
        stage = self.stage
        groups = [path.partition("/")[0] for path in stage.continues]
        found, _ = collect([*self._earlier, *self._init], groups)
        require(found, groups, self.workdir)
        continued = {path: part(found, path) for path in stage.continues}
        wanted = {*stage.trains, *stage.fresh_stats} - continued.keys()
        given, _ = collect(self._init, wanted)
        shapes = self.method.shapes()
        for group in [g for g in given if not fits(given[g], shapes[g])]:
            _LOG.info("%s: its %s has other shapes, starts anew", self._init[0], group)
            del given[group]
        return continued, given

    def start(self, key: jax.Array, frozen: Params, continued: Params, given: Params) -> Any:
        """Returns the stage's initial (params, stats); pure, to be jitted.

        Fresh weights pass through `Stage.start`. Then groups that the stage continues are replaced
        by those of an earlier stage or else of the bundle, and others by the bundle's if it has
        them. A stage of this run is newer than the bundle that the run started from.
        """
        stage, method = self.stage, self.method
        whole = (path for path in (*stage.trains, *stage.fresh_stats) if "/" not in path)
        params, stats = method.init(key, tuple(dict.fromkeys(whole)))
        params = stage.start({**frozen, **params})
        params = merged(merged(params, continued), given)
        stats |= method.continued_stats({**continued, **given})
        return {path: part(params, path) for path in stage.trains}, stats


def fits(initial: Params, fresh: Params) -> bool:
    """Returns True if a fresh group has every array of a bundle's, with the same shape."""
    known = flatten(fresh)
    return all(
        name in known and known[name].shape == leaf.shape for name, leaf in flatten(initial).items()
    )
