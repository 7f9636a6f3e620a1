"""
One image, every heat map
=========================

A network is trained for about a minute on small synthetic images. Each method of :mod:`thoraxlib.cams` explains the
same finding in the same image. The dashed box is the true one.
"""

import matplotlib.pyplot as plt
import torch

import thoraxlib
from thoraxlib import cams, datasets
from thoraxlib.images import transform_for

torch.manual_seed(0)
torch.set_flush_denormal(True)  # gradients of untrained networks get so small that a CPU becomes slow
labels, side = ["Mass", "Pneumothorax", "Cardiomegaly"], 64
images = datasets.build("synthetic", size=side, length=320, seed=0, labels=labels, balance=1.0, masks=False)
model = thoraxlib.build(
    "pcam",
    labels=labels,
    backbone={"name": "densenet121", "output_stride": 8, "dilated": False},
    input_spec={"size": [side, side]},
).to(memory_format=torch.channels_last)

# %%
# A plain training loop; :mod:`thoraxlib.training` offers a complete one.

transform = transform_for(model.input_spec)
batch = datasets.collate([transform(images[index]) for index in range(len(images))])
loss = thoraxlib.losses.build("bce")
optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
epochs, step = 3, 8
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=epochs * (len(images) // step))
torch.nn.init.constant_(model.head.fc.bias, -1.7)
for _ in range(epochs):
    for rows in torch.randperm(len(images)).split(step):
        optimizer.zero_grad()
        loss(model.train()(batch["image"][rows]), batch["labels"][rows]).backward()
        optimizer.step()
        schedule.step()

# %%
# The test image with the highest probability of a mass, drawn larger for the figure.

test = datasets.build("synthetic", size=side, length=60, seed=1, labels=labels, balance=1.0, masks=False)
shown = datasets.build("synthetic", size=256, length=60, seed=1, labels=labels, balance=1.0, masks=False)
sick = [index for index in range(60) if test.targets[index, 0] == 1]
x = datasets.collate([transform(test[index]) for index in sick])["image"]
best = int(model.eval().predict_proba(x)[:, 0].argmax())
sample, x = shown[sick[best]], x[best : best + 1]
box = sample["boxes"][sample["box_labels"] == 0][0].tolist()

# %%
# Blue is low and yellow is high; each map is stretched to its own range.

figure, axes = plt.subplots(3, 4, figsize=(11, 9), layout="constrained")
methods = [name for name in cams.names() if not name.startswith("x_ray_")]  # these repeat the numbers of one repository
pictures = {"the image": None, **{name: cams.build(name, model)(x, labels=["Mass"]) for name in methods}}
for axis, (name, maps) in zip(axes.flat, pictures.items(), strict=False):
    axis.imshow(sample["image"][0], cmap="gray", vmin=0, vmax=255)
    if maps is not None:
        heat = cams.normalize(cams.upsample(maps, 256))[0, 0]
        axis.imshow(heat, cmap="viridis", alpha=0.5, vmin=0, vmax=1)
    axis.add_patch(plt.Rectangle(box[:2], box[2] - box[0], box[3] - box[1], fill=False, ec="white", ls="--", lw=1.5))
    axis.set_title(name)
for axis in axes.flat:
    axis.set_axis_off()
plt.show()
