"""
The synthetic data set
======================

The data set draws a thorax: images, findings with their radiological signs and true boxes, organ masks and the 18
regions of Chest ImaGenome. It needs no files, and the same random seed and index always give the same image.
"""

# %%
# Images at the prevalence of NIH ChestX-ray14
# --------------------------------------------
# Most images have no finding. View, exposure, collimation, breathing state and body shape vary.

import matplotlib.pyplot as plt
import torch

from thoraxlib import datasets

images = datasets.build("synthetic", size=256, length=400)
figure, axes = plt.subplots(2, 4, figsize=(10, 5.4), layout="constrained")
for index, axis in enumerate(axes.flat):
    axis.imshow(images[index]["image"][0], cmap="gray", vmin=0, vmax=255)
    present = [name for name, value in zip(images.labels, images.targets[index], strict=True) if value == 1]
    axis.set_title(f"{images.views[index]}: {', '.join(present) or 'No Finding'}", fontsize=8)
    axis.axis("off")

# %%
# Each finding
# ------------
# With `balance=1`, every finding has a prevalence of 0.15. The figure shows each finding in an image with few others,
# with its true boxes. Edema, emphysema and fibrosis are diffuse and have no boxes.

images = datasets.build("synthetic", size=256, length=4000, balance=1.0)
figure, axes = plt.subplots(3, 5, figsize=(12, 7.6), layout="constrained")
for axis in axes.flat:
    axis.axis("off")
for k, (name, axis) in enumerate(zip(images.labels, axes.flat, strict=False)):
    count = torch.where(images.targets[:, k] == 1, images.targets.sum(dim=1), torch.inf)
    sample = images[int(count.argmin())]
    axis.imshow(sample["image"][0], cmap="gray", vmin=0, vmax=255)
    for x1, y1, x2, y2 in sample["boxes"][sample["box_labels"] == k].tolist():
        axis.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="#e69f00", linewidth=1.5))
    axis.set_title(name, fontsize=9)

# %%
# Masks and regions
# -----------------

sample = images[2]
figure, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
for axis in axes:
    axis.imshow(sample["image"][0], cmap="gray", vmin=0, vmax=255)
    axis.axis("off")
organs = (sample["masks"] * torch.arange(1, len(images.mask_names) + 1)[:, None, None]).amax(dim=0)
axes[1].imshow(torch.where(organs > 0, organs.float(), torch.nan), cmap="tab10", alpha=0.5, vmin=1, vmax=10)
axes[1].set_title(", ".join(images.mask_names), fontsize=7)
for x1, y1, x2, y2 in sample["regions"].tolist():
    axes[2].add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="#56b4e9", linewidth=1))
axes[2].set_title("18 regions", fontsize=9)
