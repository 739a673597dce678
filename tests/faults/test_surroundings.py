"""The fault commands on signals, disks and folders pass with few faults."""

import pytest
from tests.faults.test_faults import run

pytestmark = pytest.mark.usefixtures("compiled_once")

SHORT = {
    "sigterm": ("--n=1", "--seed=11"),
    "disk": ("--only=file-size limit, later", "--epochs=8"),
    "surroundings": ("--only=workdir",),
}


@pytest.mark.parametrize("name", SHORT)
def test_few_faults(name):
    assert run(name, *SHORT[name])
