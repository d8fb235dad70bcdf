"""The names of the files in a run folder.

run.json          resolved config, argv, versions, seeds, data fingerprint
split.json        which images were kept, held out and tested
metrics.jsonl     one object an epoch
model.safetensors the best weights in timm's layout; its metadata says how to use them
state.pt          everything a resumed run needs; loads with weights_only=True
summary.json      the result
search.json       how `--lam auto` chose; until then its candidates train in search/
decoder.safetensors  of a pre-training: what the encoder is made to fill images in with
previews/         of a pre-training: pictures of reconstructions
predictions.json  what it answers on its test images, once `gta report` has asked
"""

WEIGHTS_FILE = "model.safetensors"
STATE_FILE = "state.pt"
PREDICTIONS_FILE = "predictions.json"
DECODER_FILE = "decoder.safetensors"
FILES = (
    "run.json", "split.json", "metrics.jsonl", WEIGHTS_FILE, STATE_FILE, "summary.json",
    "search.json", PREDICTIONS_FILE, DECODER_FILE,
)  # fmt: skip
FOLDERS = ("search", "tensorboard", "wandb", "previews")
