"""Register the library's data sets; imported when the registry is first used."""

from thoraxlib.datasets import register
from thoraxlib.datasets.chest_imagenome import ChestImaGenome
from thoraxlib.datasets.chexpert import CheXpert
from thoraxlib.datasets.coco import RegionCoco
from thoraxlib.datasets.concat import Concat
from thoraxlib.datasets.folder_dataset import FolderDataset
from thoraxlib.datasets.image_mask import ImageMask
from thoraxlib.datasets.medmnist import ChestMNIST, PneumoniaMNIST
from thoraxlib.datasets.mimic_cxr import MIMICCXR
from thoraxlib.datasets.nih14 import NIH14
from thoraxlib.datasets.openi import OpenI
from thoraxlib.datasets.padchest import PadChest
from thoraxlib.datasets.synthetic import SyntheticDataset
from thoraxlib.datasets.table_dataset import TableDataset

register("chest_imagenome")(ChestImaGenome)
register("chexpert")(CheXpert)
register("concat")(Concat)
register("csv")(TableDataset)
register("folder")(FolderDataset)
register("image_mask")(ImageMask)
register("chestmnist")(ChestMNIST)
register("pneumoniamnist")(PneumoniaMNIST)
register("mimic_cxr")(MIMICCXR)
register("nih14")(NIH14)
register("openi")(OpenI)
register("padchest")(PadChest)
register("synthetic")(SyntheticDataset)
register("region_coco")(RegionCoco)
