"""The image size at which a trained network is tested and used, if it is not that of training.

Training at few pixels is cheap, and random crops show objects larger than they are in a test. At
more pixels, best at those of pre-training, the same weights know more (FixRes, Touvron et al.,
arXiv 1906.06423). The position embeddings are resized whenever the network is loaded; the file has
those of training.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import errors_about
from gtacli.finetuning.job import FinetuneJob
from gtacli.models.files import read_weights
from gtacli.models.loading import LoadedModel, load_folder, load_model
from gtacli.runtime.run_files import WEIGHTS_FILE
from gtacli.runtime.run_folder import RunFolder


def check_test_size(config: FinetuneConfig) -> None:
    """Raise GtaError for a size that the model cannot have."""
    if config.test_size is not None:
        assert config.model is not None
        with errors_about(image_size="test_size"), torch.device("meta"):
            load_model(config.model, 0, config.test_size, untrained=True)


def test_size_of(job: FinetuneJob) -> tuple[int, int] | None:
    """Return the size (h, w) of the test; None if it is that of training."""
    size = job.config.test_size
    return None if size == job.target.image_size else size


def load_for_test(job: FinetuneJob, run: RunFolder) -> LoadedModel:
    """Return the saved network at the size of the test, on the job's device."""
    file = run.path / WEIGHTS_FILE
    if all(job.processes.gather(file.is_file())):
        model = load_folder(run.path)
    else:  # the folder is on another node
        tensors, header = job.processes.run_on_main(lambda: read_weights(file))
        with TemporaryDirectory() as folder:
            save_file(tensors, Path(folder) / WEIGHTS_FILE, header)
            model = load_model(str(Path(folder) / WEIGHTS_FILE))
    model.model.to(job.compute.device)
    return model
