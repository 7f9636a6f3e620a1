"""
Which findings come together
============================

The synthetic data set draws its labels from the joint distribution of the 14 findings over the 112,120 images of NIH
ChestX-ray14. The odds ratio of each pair says how much more likely one finding is in the presence of the other. The
option `balance` changes the prevalence of findings, but not the ratios between them.
"""

import matplotlib.pyplot as plt
import torch

from thoraxlib import datasets


def log_odds_ratios(targets: torch.Tensor) -> torch.Tensor:
    """Compute log2 of the odds ratio of each pair of columns, with one half added to each of the four counts."""
    both = targets.T @ targets
    only = targets.sum(dim=0)[:, None] - both
    neither = len(targets) - both - only - only.T
    return torch.log2((both + 0.5) * (neither + 0.5) / ((only + 0.5) * (only.T + 0.5)))


figure, axes = plt.subplots(1, 2, figsize=(12, 5.5), layout="constrained")
for axis, balance in zip(axes, (0.0, 1.0), strict=True):
    images = datasets.build("synthetic", length=100_000, balance=balance)
    ratios = log_odds_ratios(images.targets).fill_diagonal_(torch.nan)
    shown = axis.imshow(ratios, cmap="PuOr", vmin=-4, vmax=4)
    axis.set_xticks(range(14), images.labels, rotation=90, fontsize=8)
    axis.set_yticks(range(14), images.labels, fontsize=8)
    axis.set_title(f"balance = {balance:g}: mean prevalence {images.targets.mean():.3f}", fontsize=10)
figure.colorbar(shown, ax=axes, label="log2 of the odds ratio", shrink=0.8)
