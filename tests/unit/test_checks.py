"""Small questions about input, each answered with one clear error."""

import sys

import pytest

from secateurs.checks import extra, nearest
from secateurs.errors import (
    InputError,
    LockedError,
    MissingExtraError,
    OutputError,
    PatternError,
    RecipeError,
    ScalingError,
    SecateursError,
)


def test_the_nearest_name_comes_first_and_all_are_named() -> None:
    assert nearest("lmap", ["magnitude", "lamp"]) == "Did you mean 'lamp'? Known: lamp, magnitude."
    assert nearest("xyz", ["magnitude", "lamp"]) == "Known: lamp, magnitude."


def test_an_optional_module_that_is_there_is_returned() -> None:
    assert extra("json", "explore").dumps([1]) == "[1]"


def test_a_missing_one_says_which_extra_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r"needs 'no_such_module'.* pip install 'secateurs\[explore\]'"):
        extra("no_such_module.inner", "explore")


def test_a_broken_one_is_not_called_missing(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    with open(f"{tmp_path}/broken_module.py", "w") as file:
        file.write("import another_module_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="another_module") as told:
        extra("broken_module", "explore")
    assert not isinstance(told.value, MissingExtraError)
    sys.modules.pop("broken_module", None)


def test_every_error_knows_its_documented_exit_code() -> None:
    codes = {RecipeError: 2, PatternError: 2, ScalingError: 2, MissingExtraError: 2}
    codes |= {InputError: 3, OutputError: 4, LockedError: 5}
    assert {kind: kind("x").exit_code for kind in codes} == codes
    assert all(issubclass(kind, SecateursError) for kind in codes)
