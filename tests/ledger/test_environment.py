"""The environment: what is installed, and the hashes that a lock file knows."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

from boucle.core.errors import Invalid
from boucle.ledger import environment
from boucle.ledger.environment import capture, keep, lock_hashes, needed, normal, packages, requirements

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64

UV = f"""
version = 1
[[package]]
name = "NumPy"
version = "{metadata.version("numpy")}"
sdist = {{ url = "x.tar.gz", hash = "{A}" }}
wheels = [{{ url = "x.whl", hash = "{B}" }}]
[[package]]
name = "local"
source = {{ editable = "." }}
"""
PYLOCK = f"""
lock-version = "1.0"
[[packages]]
name = "numpy"
version = "1.0"
wheels = [{{ name = "x.whl", hashes = {{ sha256 = "{"a" * 64}" }} }}]
"""
REQUIREMENTS = f"""# made by a tool
--index-url https://example.org/simple
numpy==1.0 ; python_full_version >= '3.11' \\
    --hash={A} \\
    --hash={B}
    # via -r in
uvicorn[standard]==2.0 --hash={B}
bare==3.0
"""


def test_what_is_installed_is_there_with_the_hash_of_its_record():
    found = packages()
    assert found["scikit-learn"].version == metadata.version("scikit-learn")
    assert len(found["numpy"].record) == 64
    assert found["boucle"].origin.startswith("file:")
    assert normal("Foo__.Bar") == "foo-bar"


def test_it_is_kept_once_per_store(shop, tmp_path):
    digest = keep(shop.blobs)
    content = json.loads(shop.blobs.get(digest))
    assert content == json.loads(json.dumps(capture()))
    assert keep(shop.blobs) == digest
    import boucle

    with boucle.init(tmp_path / "other") as other:
        assert keep(other.blobs) == digest
        assert other.blobs.has(digest)


def test_needed_goes_down_to_the_last_and_leaves_extras_out():
    found = needed(["scikit_learn"])
    assert found.keys() >= {"scikit-learn", "numpy", "scipy", "joblib", "threadpoolctl"}
    assert "pytest" not in found
    assert needed(["not-installed-at-all"]) == {}


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("uv.lock", UV, {("numpy", metadata.version("numpy")): {A, B}}),
        ("pylock.toml", PYLOCK, {("numpy", "1.0"): {A}}),
        ("requirements.txt", REQUIREMENTS, {("numpy", "1.0"): {A, B}, ("uvicorn", "2.0"): {B}}),
        ("requirements-dev.txt", REQUIREMENTS, {("numpy", "1.0"): {A, B}, ("uvicorn", "2.0"): {B}}),
        ("other.txt", REQUIREMENTS, {}),
    ],
)
def test_hashes_of_a_lock(tmp_path, file, text, expected):
    (tmp_path / file).write_text(text)
    assert lock_hashes(tmp_path) == expected


def test_a_broken_lock_is_said(tmp_path):
    (tmp_path / "uv.lock").write_text("[[package")
    with pytest.raises(Invalid, match=r"uv.lock is not valid TOML"):
        lock_hashes(tmp_path)


def test_requirements_carry_hashes_when_the_lock_knows_all_of_them(tmp_path):
    (tmp_path / "uv.lock").write_text(UV)
    assert (
        requirements(["numpy"], tmp_path)
        == f"numpy=={metadata.version('numpy')} \\\n    --hash={A} \\\n    --hash={B}\n"
    )


def test_and_otherwise_none_does_for_pip_would_refuse_the_rest(tmp_path):
    (tmp_path / "uv.lock").write_text(UV)
    lines = requirements(["scikit-learn"], tmp_path).splitlines()
    assert f"numpy=={metadata.version('numpy')}  # record-sha256:{packages()['numpy'].record}" in lines
    assert "--hash" not in "".join(lines)


def test_requirements_are_what_pip_understands():
    from packaging.requirements import Requirement

    names = [Requirement(line.partition("#")[0]).name for line in requirements(["scikit-learn"]).splitlines()]
    assert {normal(n) for n in names} == set(environment.needed(["scikit-learn"]))
