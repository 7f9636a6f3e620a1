"""The Lightning module of organ segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from thoraxlib.segmentation.base import Segmenter
from thoraxlib.segmentation.masks import ORGAN_PARTS, dice_score, organ_masks
from thoraxlib.training.task import Task

if TYPE_CHECKING:
    from thoraxlib.training.data import DataModule


class SegmentationTask(Task):
    """Trains a segmenter of images (N, C, H, W) -> logits (N, M, H, W) on organ masks.

    The data module is built with ``masks=True``. Logs ``train/loss``, ``val/loss``, ``val/dice`` (mean over organs of
    the mean Dice over images) and ``val/dice_<organ>``.

    Parameters
    ----------
    model : Segmenter
        With ``classes``.
    parts : mapping of str to sequence of str
        Which masks make up a class; see :func:`thoraxlib.segmentation.organ_masks`.
    **settings
        See :class:`Task`; losses for masks are "dice_bce" and "dice".
    """

    model: Segmenter

    default_loss = "dice_bce"
    default_monitor = "val/dice"

    def __init__(self, model: Segmenter, *, parts: Mapping[str, Sequence[str]] = ORGAN_PARTS, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.parts = parts

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of all that is logged."""
        organs = (f"val/dice_{organ}" for organ in self.model.classes[1:])
        return (*super().scores, "val/loss", "val/dice", *organs)

    def check(self, data: DataModule) -> None:
        """See that the images come with masks, alike in all parts.

        Raises
        ------
        ValueError
            No masks, or other ones in a part than in ``train``.
        """
        super().check(data)
        if not data.masks:
            raise ValueError("the samples have no masks: build the data module with masks=True")
        names = [tuple(getattr(data.parts[part], "mask_names", ())) for part in ("train", "val")]
        if not names[0] or names[0] != names[1]:
            raise ValueError(f"mask_names of train are {names[0]}, of val {names[1]}: the same are needed")

    def outputs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Logits, and the masks of the classes."""
        names = self.trainer.datamodule.parts["train"].mask_names
        masks = organ_masks(batch["masks"], names, self.model.classes, self.parts)
        return self(batch["image"]), masks.float()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Keep every image's Dice until the epoch's end."""
        logits, masks = self.outputs(batch)
        found = nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).movedim(-1, 1)
        loss = self.loss(logits.float(), masks).expand(len(logits))
        self.keep(batch, dice_score(found[:, 1:], masks[:, 1:]), loss)

    def on_validation_epoch_end(self) -> None:
        """Mean over the images."""
        kept = self.kept()
        if kept is None:
            return
        _, dice, loss = kept
        of_organs = dice.nanmean(dim=0)
        scores = {"val/loss": loss.mean(), "val/dice": of_organs.nanmean()}
        scores |= {f"val/dice_{organ}": of_organs[k] for k, organ in enumerate(self.model.classes[1:])}
        self.log_dict({name: float(value) for name, value in scores.items()}, prog_bar=True, sync_dist=True)
