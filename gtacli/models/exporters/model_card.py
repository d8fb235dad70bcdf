"""The README.md of an exported model, a model card of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gtacli.models.exporters.base import Export
from gtacli.runtime.escapes import escape_controls

PICTURE = "attention.png"
SHOWN = 200
"""Classes that are listed; config.json has all."""
_USE = """\
```python
import timm
import torch
from PIL import Image

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or "hf-hub:USER/NAME"
view = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
with torch.no_grad():
    probabilities = model(view(Image.open("image.jpg").convert("RGB"))[None]).FUNCTION
names = model.pretrained_cfg.get("label_names")
```"""
_MARKS = re.compile(r"([\\`*{}\[\]<>#|]|\b_|_\b)")


def model_card(export: Export) -> str:
    """Return the text of the model card."""
    return "\n".join(_lines(export)) + "\n"


def _lines(export: Export) -> Iterator[str]:
    card, facts = export.card, export.facts
    license_name = facts.license or "unknown"
    yield from ("---", "library_name: timm", "tags:", "- image-classification", "- timm")
    # In quotes, as YAML has it: a license of the user's own may be any text.
    yield from (f"license: '{_plain(license_name).replace(chr(39), chr(39) * 2)}'", "---", "")
    yield from (f"# {_plain(card.architecture)}", "", _about(export), "")
    function = "sigmoid()" if card.multi_label else "softmax(-1)"
    yield from ("## Use", "", _USE.replace("FUNCTION", function), "")
    if card.multi_label:
        yield from (
            "An image has any number of the classes; each has a probability of its own.",
            "",
        )
    height, width = card.image_size
    yield (
        f"Images are resized ({card.interpolation}) so that {height} x {width} is "
        f"{card.crop_pct:g} of their shorter side, and their center is cut out; mean "
        f"{list(card.mean)}, standard deviation {list(card.std)}."
    )
    yield from ("", "## Metrics", "")
    if facts.metrics:
        yield from ("| metric | value | 95 % interval |", "|---|---|---|")
        for name, value, interval in facts.metrics:
            shown = "" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}"
            yield f"| {name} | {value:.1%} | {shown} |"
    else:
        yield "None are recorded."
    if facts.picture is not None:
        yield from ("", "## Where it looks", "", f"![images and attention]({PICTURE})", "")
        yield "The attention of the CLS token in the last block, maximum over the heads."
    if card.classes:
        more = "" if len(card.classes) <= SHOWN else f", and {len(card.classes) - SHOWN} more"
        names = ", ".join(map(_plain, card.classes[:SHOWN]))
        yield from ("", f"## Classes ({len(card.classes)})", "", names + more)
    yield from ("", "## License", "", _license(license_name))


def _about(export: Export) -> str:
    facts, card = export.facts, export.card
    trained = f"trained by `gta {facts.command}`" if facts.command else "exported"
    data = f" on {_plain(facts.data)}" if facts.data else ""
    images = f" ({facts.images:,} training images)" if facts.images is not None else ""
    start = f", from {_plain(facts.start)}" if facts.start else ""
    return f"A vision transformer {trained}{data}{images}{start}; gta {card.gta}."


def _license(name: str) -> str:
    if name != "unknown":
        return _plain(name)
    return (
        "Not recorded. Weights are under the license of those that they were trained from, and "
        "datasets have licenses of their own."
    )


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is, in one line."""
    return _MARKS.sub(r"\\\1", escape_controls(" ".join(text.split())))
