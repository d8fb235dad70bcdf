"""The usual names of a table's columns, and the usual values of its cells."""

import re

# The first name that a table has counts. Letters and digits only, in lower case.
NAMES = {
    "image": (
        *("path", "image", "imagepath", "imagefile", "imgpath", "img", "file", "filename"),
        *("filepath", "imagename", "imgname", "imagefilename", "photo", "picture"),
        *("imageid", "imgid", "id", "name"),
    ),
    "label": (
        *("label", "class", "category", "target", "species", "breed", "classname", "labelname"),
        *("categoryname", "labels", "diagnosis", "dx", "classid", "labelid", "categoryid"),
        *("title", "choice"),  # the latter of Label Studio
    ),
    "split": ("split", "set", "subset", "partition", "part", "phase", "usage"),
    "mask": ("mask", "maskpath"),
}
SEVERAL = (
    *("labels", "tags", "findinglabels", "attributeids", "attributes", "categories", "classes"),
    *("annotations", "keywords"),
)
"""Usual names of a column with several labels, which come before those of one."""
FLAGS = {
    **dict.fromkeys(("istrain", "istraining", "istrainingimage"), ("train", "test")),
    **dict.fromkeys(("isval", "isvalid", "isvalidation"), ("val", "train")),
    **dict.fromkeys(("istest",), ("test", "train")),
}
"""Columns of yes and no, with the split of either."""
YES_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
EMPTY = frozenset({"", "nan", "<na>", "#n/a"})
"""Empty cells in lower case, as pandas and Excel write them, too; None may be a class."""


def plain_name(name: str) -> str:
    """Return a column's name as those here are written: letters and digits, in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
