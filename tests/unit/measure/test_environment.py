"""What a number was measured with."""

import json
import platform

import torch

import secateurs
from secateurs.measure.environment import environment


def test_the_environment_names_versions_and_cpu_and_fits_json() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["secateurs"] == secateurs.__version__
    assert found["torch"] == torch.__version__
    assert found["python"] == platform.python_version()
    assert found["cpu"]
