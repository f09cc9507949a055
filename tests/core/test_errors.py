import copy
import pickle

import pytest

from boucle.core import errors
from boucle.core.errors import BoucleError, Invalid, NotFound

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BoucleError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_an_error_says_what_was_expected_and_what_to_do(kind: type[BoucleError]) -> None:
    error = kind("it broke", expected="a whole one", fix="mend it")
    assert str(error) == "it broke\n  expected: a whole one\n  to do:    mend it"
    assert str(kind("it broke")) == "it broke"


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_an_error_survives_the_way_from_a_worker(kind: type[BoucleError]) -> None:
    error = kind("it broke", expected="a whole one", fix="mend it")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert (again.what, again.expected, again.fix) == (error.what, error.expected, error.fix)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [("Invalid", ValueError), ("NotFound", LookupError), ("Refused", PermissionError), ("Conflict", RuntimeError),
     ("Corrupt", OSError), ("Unavailable", OSError), ("MissingExtra", ImportError), ("StepFailed", RuntimeError)],
)  # fmt: skip
def test_an_error_is_the_builtin_one_expects(kind: str, builtin: type[Exception]) -> None:
    with pytest.raises(builtin):
        raise getattr(errors, kind)("x")


def test_exit_codes_are_never_success_and_tell_errors_apart() -> None:
    codes = [kind.exit_code for kind in KINDS if kind.exit_code != 1]
    assert len(set(codes)) == len(codes) == 7
    assert 0 not in codes


def test_not_found_names_the_nearest() -> None:
    error = NotFound.named("model", "chrun", ["churn", "fraud", "churn"], fix="boucle models")
    assert error.what == "no model named 'chrun'"
    assert error.expected == "one of churn"
    assert NotFound.named("model", "zzz", ["b", "a"]).expected == "one of a, b"
    assert NotFound.named("model", "zzz", []).expected == "there is no model yet"


def test_invalid_is_caught_as_boucle_error() -> None:
    with pytest.raises(BoucleError):
        raise Invalid("x")
