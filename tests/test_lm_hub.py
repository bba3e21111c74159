"""Checkpoints by an id on the hub: what is fetched, from the cache when offline, and errors."""

from pathlib import Path

import pytest
from lm_files import in_two_files, made, parameters, written

from dynlm._io import BadArgument
from dynlm.lm._files import CONFIG, locate
from dynlm.lm._load import load


def in_cache(cache: Path, name: str, folder: Path, commit: str = "c" * 40) -> Path:
    """A folder as the hub's library keeps it."""
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    (home / "snapshots").mkdir()
    folder.rename(home / "snapshots" / commit)
    return home / "snapshots" / commit


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The hub's library with an empty cache and HF_HUB_OFFLINE=1."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.mark.parametrize("files", [1, 2])
def test_a_cached_id_loads_offline(tmp_path, offline, files):
    folder = written(tmp_path / "made")
    if files == 2:
        in_two_files(folder)
    kept = in_cache(offline, "owner/small", folder)
    for revision in (None, "main", "c" * 40):
        model = load("owner/small", revision=revision)
        assert model.source.revision == "c" * 40
        assert {path.parent for path in model.source.files} == {kept}
    got, wanted = parameters(model.decoder), parameters(made())
    assert all((got[name] == x).all() for name, x in wanted.items())


def test_an_id_that_is_not_cached_offline(offline):
    with pytest.raises(BadArgument, match="'owner/none' .* cannot be reached .*HF_HUB_OFFLINE"):
        load("owner/none")
    with pytest.raises(BadArgument, match="of revision 'v2'"):
        load("owner/none", revision="v2")


def test_only_what_is_needed_is_fetched(tmp_path, monkeypatch):
    folder = written(tmp_path / ("a" * 40))
    in_two_files(folder)
    asked = []

    def snapshot_download(name, *, revision, allow_patterns):
        asked.append((revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    found = locate("owner/small", "v1")
    assert [revision for revision, _ in asked] == ["v1", "a" * 40]
    assert asked[1][1] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert not any(
        pattern.endswith((".bin", ".py", "*")) for _, names in asked for pattern in names
    )
    assert found.revision == "a" * 40
    assert [path.name for path in found.weights] == asked[1][1]


@pytest.mark.parametrize(
    "error, words",
    [
        ("GatedRepoError", "'owner/x' is gated: .*hf auth login"),
        ("RepositoryNotFoundError", "no folder 'owner/x' here, and the hub shows no model"),
        ("RevisionNotFoundError", "'owner/x' has no `revision` 'v9'"),
        ("LocalEntryNotFoundError", "hub cannot be reached"),
        ("HfHubHTTPError", "'owner/x' could not be fetched from the hub: 5 of 7"),
    ],
)
def test_what_the_hub_says_becomes_a_sentence(monkeypatch, error, words):
    from huggingface_hub import errors

    kind = getattr(errors, error)
    raised = kind.__new__(kind)
    raised.args = ("5 of 7\nand more",)

    def snapshot_download(*args, **kwargs):
        raise raised

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(BadArgument, match=words):
        load("owner/x", revision="v9")


@pytest.mark.parametrize("absent", [CONFIG, "model-00002-of-00002.safetensors", "model*"])
def test_an_id_of_which_a_part_is_cached_offline(tmp_path, offline, absent):
    in_two_files(written(tmp_path / "made"))
    for path in list((tmp_path / "made").glob(absent)):
        path.unlink()
    in_cache(offline, "owner/part", tmp_path / "made")
    with pytest.raises(BadArgument, match="(lacks|has no) .*HF_HUB_OFFLINE .*connect once"):
        load("owner/part")
