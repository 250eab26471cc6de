"""PyOD's detectors on one split, as they come: `python peers.py SPLIT.npz SCORES.npz`."""

import sys
import time

import numpy as np
from pyod.models.ecod import ECOD
from pyod.models.iforest import IForest
from pyod.models.vae import VAE


def main(split: str, out: str) -> None:
    """Fit to `train`, score `test`, and write the scores and seconds of each detector."""
    with np.load(split) as file:
        train, test = file["train"], file["test"]
    results = {}
    for name, detector in {
        "PyOD VAE": VAE(verbose=0, random_state=0),
        "PyOD ECOD": ECOD(),
        "PyOD IForest": IForest(random_state=0),
    }.items():
        started = time.perf_counter()
        detector.fit(train)
        results[name] = detector.decision_function(test)
        results[f"{name} seconds"] = np.array(time.perf_counter() - started)
    np.savez(out, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
