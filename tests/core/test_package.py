"""The package's face: light to import, errors that help."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dfplan
from dfplan.errors import missing_extra, unknown_name


def test_importing_the_package_does_not_import_torch() -> None:
    # Catches: a heavy import at the top of a light module (the command line's help would take seconds).
    code = "import sys, dfplan, dfplan.errors, dfplan.checkpoint; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_public_names_are_there() -> None:
    # Catches: a name that is promised and cannot be imported.
    for name in dfplan.__all__:
        assert getattr(dfplan, name) is not None and name in dir(dfplan)
    assert dfplan.DFPlanner.__module__ == "dfplan.planner" and dfplan.TrainConfig.__module__ == "dfplan.training"
    with pytest.raises(AttributeError, match="module 'dfplan' has no attribute 'DFPlaner'"):
        _ = dfplan.DFPlaner


def test_a_wrong_name_lists_the_options_and_the_nearest() -> None:
    # Catches: a nearest that is far away, options out of order, a crash on what is no string.
    text = str(unknown_name("colour", "gren", ["red", "green", "blue"]))
    assert text == "unknown colour 'gren'. Did you mean 'green'? Choose one of: blue, green, red"
    assert str(unknown_name("colour", "xyz", ["red"])) == "unknown colour 'xyz'. Choose one of: red"
    assert str(unknown_name("colour", 3, [])) == "unknown colour 3. Choose one of: (none)"


def test_a_missing_extra_names_its_command() -> None:
    # Catches: a message without the remedy.
    error = missing_extra("minari", "minari", "reading Minari data sets")
    assert isinstance(error, ImportError)
    assert str(error) == "reading Minari data sets needs the package 'minari': pip install 'dfplan[minari]'"
