"""Where the cells of a netlist would lie about, from those that have their sites."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import cg

__all__ = ["positions"]

MOST_PINS = 1500
"""Of a net that counts: clock and constants are everywhere."""

TETHER = 1e-6
"""Weight of the way to the middle, for cells that nothing else holds."""


def positions(netlist: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
    """Quadratic placement: the sum of the squares of all nets' lengths is least.

    That is what analytic placers begin with. Cells come to lie too near each other, in the right
    order. A net is a star: its cells are connected to a point of its own.

    Parameters
    ----------
    netlist
        A flat design named top as yosys writes it; some of its cells have the attribute `BEL`.

    Returns
    -------
    dict
        x and y of each cell, by its name, in nextpnr's grid.
    """
    cells = {
        name: cell
        for name, cell in netlist["modules"]["top"]["cells"].items()
        if not cell["type"].startswith("$")
    }
    pins: dict[int, set[int]] = {}
    for number, cell in enumerate(cells.values()):
        for bits in cell["connections"].values():
            for bit in bits:
                if isinstance(bit, int):
                    pins.setdefault(bit, set()).add(number)
    stars = [members for members in pins.values() if 2 <= len(members) <= MOST_PINS]
    ends = [(cell, len(cells) + star) for star, members in enumerate(stars) for cell in members]
    weights = [len(members) / (len(members) - 1) for members in stars for _ in members]
    size = len(cells) + len(stars)
    rows, columns = np.array(ends).T
    pulls = coo_matrix((weights, (rows, columns)), shape=(size, size))
    pulls = (pulls + pulls.T).tocsr()
    forces = (diags(np.asarray(pulls.sum(axis=1)).ravel() + TETHER) - pulls).tocsr()

    sites = {
        number: [int(part) for part in re.findall(r"\d+", cell["attributes"]["BEL"])[:2]]
        for number, cell in enumerate(cells.values())
        if "BEL" in cell["attributes"]
    }
    held = np.zeros(size, bool)
    held[list(sites)] = True
    known = np.array(list(sites.values()), float)
    middle = known.mean(axis=0)
    places = np.zeros((size, 2))
    places[list(sites)] = known
    free = np.flatnonzero(~held)
    inner = forces[free][:, free]
    outer = forces[free][:, list(sites)]
    scale = diags(1 / inner.diagonal())
    for axis in range(2):
        wanted = TETHER * middle[axis] - outer @ known[:, axis]
        start = np.full(len(free), middle[axis])
        places[free, axis], _ = cg(inner, wanted, x0=start, rtol=1e-5, M=scale, maxiter=2000)
    return dict(zip(cells, places, strict=False))
