"""The names of the files in a run folder.

run.json             resolved config, argv, versions, seeds, data fingerprint
split.json           keys of the images trained, validated and tested on
metrics.jsonl        one JSON object per epoch
model.safetensors    the best weights in timm's layout, with metadata to load them
adapter.safetensors  the adapters of these weights alone, in peft's layout (`keep_adapter`)
adapter_config.json  what peft needs to load them
state.pt             everything that a resumed run needs; loads with weights_only=True
state-previous.pt    the state before it, in case it is damaged; deleted at the end of the run
summary.json         the result
kept_attention.json  how much of the source's attention the run keeps, and why
linear_probe.json    what a linear probe on frozen features reaches
search.json          the choice of `lam=auto`; its candidates train in search/
decoder.safetensors  decoder of a pre-training
previews/            reconstructions of a pre-training, as images
journal.jsonl        results of the images so far, of a command that writes files for images
annotations.json     objects in COCO's format, written by `gta segment`
tasks.json           objects as tasks of Label Studio
label-config.xml     labeling interface of these tasks
data.yaml            categories of labels for YOLO
folds.csv            predictions on the training images by `folds`, which train in folds/
folds.safetensors    their logits
calibration.json     temperature and threshold, written by `gta calibrate`
predictions.json     predictions on the test images, written by `gta report`
"""

RECORD_FILE = "run.json"
WEIGHTS_FILE = "model.safetensors"
METRICS_FILE = "metrics.jsonl"
STATE_FILE = "state.pt"
PREVIOUS_STATE_FILE = "state-previous.pt"
ADAPTER_FILE = "adapter.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
PREDICTIONS_FILE = "predictions.json"
CALIBRATION_FILE = "calibration.json"
FOLDS_TABLE = "folds.csv"
FOLDS_FILE = "folds.safetensors"
DECODER_FILE = "decoder.safetensors"
JOURNAL_FILE = "journal.jsonl"
COCO_FILE = "annotations.json"
TASKS_FILE = "tasks.json"
LABEL_CONFIG_FILE = "label-config.xml"
YOLO_FILE = "data.yaml"
FILES = (
    RECORD_FILE, "split.json", METRICS_FILE, WEIGHTS_FILE, STATE_FILE, "summary.json",
    "search.json", "kept_attention.json", "linear_probe.json", PREDICTIONS_FILE, DECODER_FILE,
    ADAPTER_FILE, ADAPTER_CONFIG_FILE, PREVIOUS_STATE_FILE, JOURNAL_FILE,
    CALIBRATION_FILE, FOLDS_TABLE, FOLDS_FILE, COCO_FILE, TASKS_FILE, LABEL_CONFIG_FILE,
    YOLO_FILE,
)  # fmt: skip
BEFORE_TRAINING = frozenset([RECORD_FILE, "split.json", "kept_attention.json", "linear_probe.json"])
"""What a run has written before its first step; it can be made again in seconds."""
FOLDERS = ("search", "folds", "tensorboard", "wandb", "previews")
