"""The archive of a batch: exact to the bit, small, and never unpickled."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.arm import DETECT, POSE
from tests.forensics.lab import digest_batch
from yolo_gradsafe.forensics.archive import ArchiveError, load_batch, save_batch


@pytest.mark.parametrize("model", [DETECT, POSE])
def test_a_real_batch_comes_back_equal_to_the_bit(labs, model, tmp_path):
    lab = labs(model)
    batch = lab.with_nan_pixel(2)
    batch["img"][1, 0, 5, 5] = float("-inf")
    path = tmp_path / "stability" / "batches" / "e001_b0002.npz"
    assert save_batch(path, batch, {"epoch": 1, "loss": float("nan")}) == []
    back, meta = load_batch(path)
    assert set(back) == set(batch)
    assert digest_batch(back) == digest_batch(batch)
    assert meta == {"epoch": 1, "loss": "nan"}
    assert path.stat().st_size < batch["img"].numel()  # less than its bytes, where floats take four times as many
    assert [p.name for p in path.parent.iterdir()] == [path.name]


BYTES = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
IMAGES = {
    "divided": BYTES.float() / 255,
    "multiplied, as CUDA does": BYTES.float() * torch.tensor(1 / 255),
    "bytes": BYTES,
    "half": BYTES.half() / 255,
    "bfloat16": BYTES.bfloat16() / 255,
    "resized": torch.nn.functional.interpolate(BYTES.float() / 255, scale_factor=1.3, mode="bilinear"),
    "standardised": torch.randn(2, 3, 8, 8),
    "all nan": torch.full((1, 3, 8, 8), float("nan")),
    "halves": torch.full((1, 3, 8, 8), 0.25),
    "turned": (BYTES.float() / 255).expand(2, 3, 16, 16).transpose(2, 3),
    "minus zero": torch.full((1, 3, 8, 8), -0.0),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_every_kind_come_back(kind, tmp_path):
    save_batch(tmp_path / "a.npz", {"img": IMAGES[kind]}, {})
    back = load_batch(tmp_path / "a.npz")[0]["img"]
    assert back.dtype == IMAGES[kind].dtype
    bits = torch.int16 if back.element_size() == 2 else torch.uint8 if back.element_size() == 1 else torch.int32
    assert torch.equal(back.contiguous().view(bits), IMAGES[kind].contiguous().view(bits))


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.booleans(),
        lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
        max_leaves=8,
    )
)
def test_plain_values_come_back_as_they_were(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("plain") / "a.npz"
    save_batch(path, {"img": BYTES, "value": value}, {})
    assert load_batch(path)[0]["value"] == value


def test_what_is_no_plain_value_is_left_out_and_told(tmp_path):
    left_out = save_batch(tmp_path / "a.npz", {"img": BYTES, "object": object(), "objects": [1, object()]}, {})
    assert left_out == ["object", "objects"]
    assert set(load_batch(tmp_path / "a.npz")[0]) == {"img"}


def test_nothing_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    path = tmp_path / "a.npz"
    np.savez(path, about=np.frombuffer(b"{}", np.uint8), **{"raw:img": np.array([Evil()], dtype=object)})
    with pytest.raises(ArchiveError, match=r"a\.npz"):
        load_batch(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ArchiveError, match=r"a\.npz"):
        load_batch(path)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 half a file"])
def test_a_damaged_file_is_told(content, tmp_path):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ArchiveError, match="not a batch that GradSafe kept"):
        load_batch(tmp_path / "a.npz")


def test_a_missing_or_cut_or_foreign_file_is_told(tmp_path):
    save_batch(tmp_path / "a.npz", {"img": BYTES}, {})
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
    for name in ("cut", "foreign", "missing"):
        with pytest.raises(ArchiveError):
            load_batch(tmp_path / f"{name}.npz")
