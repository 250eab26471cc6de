import numpy as np
import pytest

from tests.conftest import CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_a(serving, name):
    c = serving(name)
    shape = CONFIGS[name].data.public_shape
    x = np.full((3, *shape), 0.5).tolist()
    for path in ("/encode", "/reconstruct", "/free-energy?samples=5&per_dimension=true"):
        r = c.post(path, json={"inputs": x})
        assert r.status_code == 200, r.text
    assert c.get("/sample?n=5&noise=true").status_code == 200
    assert c.get("/openapi.json").status_code == 200
