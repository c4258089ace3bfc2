import pytest
import torch

from recsys.training.checkpoint import WholeFiles, digest, plain


class Dies:
    """Cannot be written: the process is gone in the middle of it."""

    def __reduce__(self):
        raise KeyboardInterrupt


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path):
    path = tmp_path / "made" / "last.ckpt"
    WholeFiles().save_checkpoint({"a": torch.arange(3)}, path)
    with pytest.raises(KeyboardInterrupt):
        WholeFiles().save_checkpoint({"a": torch.zeros(100_000), "b": Dies()}, path)
    assert torch.load(path, weights_only=True)["a"].tolist() == [0, 1, 2]
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_settings_are_plain():
    assert plain({"a": {"b": 1, "c": {"d": None}}, "e": [1, 2], "f": True, "g": 0.5}) == {
        "a.b": 1,
        "a.c.d": None,
        "e": "[1, 2]",
        "f": True,
        "g": 0.5,
    }


def test_digest_sees_whole_numbers_alone():
    one = [torch.arange(4), torch.rand(3)]
    assert digest(one) == digest([torch.arange(4), torch.rand(3)])
    assert digest(one) != digest([torch.tensor([0, 1, 3, 2]), one[1]])
    assert digest([torch.tensor([True, False])]) != digest([torch.tensor([True, True])])
    assert digest([torch.arange(8)[::2]]) == digest([torch.tensor([0, 2, 4, 6])])
