"""Pictures that we write, found and opened by pytorch-fid."""

import numpy as np
import pytest

from minivim.pictures import saved, to_uint8


def test_pytorch_fid_reads_every_picture_and_no_table(
    torchvision, tmp_path, monkeypatch
):
    score = pytest.importorskip("pytorch_fid.fid_score")
    images = np.random.default_rng(0).random((12, 6, 6, 3), np.float32)
    how = {"npz": False, "side": 6, "count": 12, "class_names": ["x"]}
    with saved(tmp_path / "a", **how) as add:
        add(np.zeros(12, int), images=images)

    def statistics(files, *rest):
        opened = score.ImagePathDataset(files)
        return np.stack([np.asarray(opened[i]) for i in range(len(files))]), None

    monkeypatch.setattr(score, "calculate_activation_statistics", statistics)
    found, _ = score.compute_statistics_of_path(str(tmp_path / "a"), None, 4, 64, "cpu")
    np.testing.assert_array_equal(found, [to_uint8(image) for image in images])
