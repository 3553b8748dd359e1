"""A model of Ma's metric that nobody trained, in the layout of the authors' `model.mat`."""

import numpy as np
from scipy.io import savemat

COUNTS = (18, 45, 75)
LINEAR = np.array([0.5, 0.25, 1.5, -0.75])


def tree(rng, features, nodes=15):
    """A random binary tree as randomforest-matlab stores it: nodes from 1, 0 for none."""
    left, right, attribute = (np.zeros(nodes, np.int32) for _ in range(3))
    upper, value = np.zeros(nodes), rng.uniform(0, 10, nodes)
    leaves, used = [0], 1
    while used + 2 <= nodes - 2:  # the last nodes stay unused, as in smaller trees
        node = leaves.pop(rng.integers(len(leaves)))
        left[node], right[node] = used + 1, used + 2
        attribute[node], upper[node] = rng.integers(1, features + 1), rng.uniform(0, 1.5)
        leaves += [used, used + 1]
        used += 2
    return left, right, upper, value, attribute


def write(path, trees=7):
    """Writes the file, and returns its forests: arrays [nodes, trees] by MATLAB's names."""
    rng = np.random.default_rng(0)
    forests = []
    for count in COUNTS:
        made = zip(*(tree(rng, count) for _ in range(trees)), strict=True)
        names = ("lDau", "rDau", "upper", "avnode", "mbest")
        forests.append(dict(zip(names, (np.stack(part, axis=1) for part in made), strict=True)))
    cells = np.empty((1, 3), object)
    cells[0, :] = forests
    savemat(path, {"model": {"rf": cells, "linear": LINEAR[:, None]}})
    return forests


def predict(forest, features):
    """Walks down every tree by its definition."""
    found = []
    for i in range(forest["lDau"].shape[1]):
        node = 0
        while forest["lDau"][node, i]:
            below = features[forest["mbest"][node, i] - 1] <= forest["upper"][node, i]
            node = forest["lDau" if below else "rDau"][node, i] - 1
        found.append(forest["avnode"][node, i])
    return np.mean(found)
