"""The faults fire where they say."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from yolo_gradsafe.drill.faults import NaNPixel


def test_one_pixel_of_one_batch():
    trainer = SimpleNamespace(epoch=0, preprocess_batch=lambda batch: batch)
    fault = NaNPixel(epoch=2, batch=3)
    fault.callbacks["on_train_start"](trainer)
    bad = []
    for epoch in range(3):
        trainer.epoch = epoch
        for number in range(1, 5):
            batch = trainer.preprocess_batch({"img": torch.zeros(2, 3, 4, 4)})
            if batch["img"].isnan().any():
                bad.append((epoch + 1, number, int(batch["img"].isnan().sum())))
    assert bad == [(2, 3, 1)]
    assert fault.fired == 1
