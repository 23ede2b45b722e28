"""The folder that a conversion makes: new, and whole or not there, on a full disk too."""

from __future__ import annotations

import pathlib

import pytest

from flan_train.convert import destination
from flan_train.errors import UserError
from tests.test_full_disk import run_child


def test_a_folder_gets_its_name_when_it_is_whole(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "a" / "new"
    destination.check_new(folder)
    with destination.written_whole(folder) as unfinished:
        (unfinished / "file").write_text("whole")
        assert not folder.exists()
    assert (folder / "file").read_text() == "whole"
    assert [path.name for path in folder.parent.iterdir()] == ["new"]
    with pytest.raises(UserError, match="exists already"):
        destination.check_new(folder)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), UserError("wrong")])
def test_after_an_error_nothing_is_left(error: Exception, tmp_path: pathlib.Path) -> None:
    def fail() -> None:
        with destination.written_whole(tmp_path / "new") as unfinished:
            (unfinished / "file").write_text("some")
            raise error

    with pytest.raises(UserError, match=r"the folder cannot be written: No space|wrong"):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the folder cannot be made: .*file is not a folder"):
        destination.check_new(tmp_path / "file" / "new")


# A limit on the size of a file is what a full disk is to whoever writes one.
FULL = """
import dataclasses, json, pathlib, resource, sys
import jax, numpy as np
from flan_train import checkpoints, optimizers
from flan_train.convert import hf, t5x
from flan_train.errors import UserError
from flan_train.models import t5
from tests.convert.hf_folder import UNTIED, folder_of, tensors_of
from tests.models import seeded

place = pathlib.Path(json.loads(sys.argv[1]))
config = dataclasses.replace(UNTIED, num_encoder_layers=1, num_decoder_layers=1)
theirs = folder_of(place / "hf", config, tensors_of(config))
run = checkpoints.Checkpoints(place / "run", checkpoints.CheckpointConfig())
params = seeded.params(config)
state = optimizers.adafactor(optimizers.OptimizerConfig(), t5.param_axes(config)).init(params)
random = np.random.default_rng(0)
state = jax.tree.map(lambda x: random.random(x.shape, np.float32), state)
state = state._replace(count=np.int32(3))
run.save(3, jax.tree.map(np.asarray, params), state, {}, {"model": vars(config)})
run.close()
ours = run.path(3)
t5x.flan_to_t5x(ours, place / "t5x")
ways = {
    "hf-to-flan": lambda to: hf.hf_to_flan(theirs, to),
    "flan-to-hf": lambda to: hf.flan_to_hf(ours, to),
    "t5x-to-flan": lambda to: t5x.t5x_to_flan(place / "t5x" / "checkpoint_3", to),
    "flan-to-t5x": lambda to: t5x.flan_to_t5x(ours, to / "checkpoint_3"),
    "parameters": lambda to: checkpoints.save_params(to, params, {}),
}
said = {}
for way, convert in ways.items():
    said[way] = []
    # No file at all; the parameters of some, and not what comes last.
    for limit in (0, 1_500, 6_000):
        to = place / "new" / "folder"
        to.parent.mkdir(exist_ok=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            convert(to)
        except UserError as error:
            said[way].append(error.what)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        left = [path.name for path in (place / "new").rglob("*") if path != to]
        assert left == [], (way, limit, left)
    convert(to)
    for path in sorted((place / "new").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
print(json.dumps(said))
"""


def test_a_full_disk(tmp_path: pathlib.Path, repository: pathlib.Path) -> None:
    said = run_child(repository, [], FULL, str(tmp_path))
    assert set(said) == {"hf-to-flan", "flan-to-hf", "t5x-to-flan", "flan-to-t5x", "parameters"}
    for way, whats in said.items():
        assert len(whats) >= 2, way
        for what in whats:
            assert what.startswith("the folder cannot be written: "), way
            assert "File too large" in what, way
