"""The plug-in gta-coco: files of annotations as datasets.

The families are in `gta_coco.readers`; `gta_coco.coco`, `gta_coco.cvat` and `gta_coco.label_studio`
parse one format each to the annotations of `gta_coco.annotations`, of which `gta_coco.records`
makes the records of a dataset, whose masks and crops are drawn by `gta_coco.drawing`.
"""
