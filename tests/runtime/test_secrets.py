"""Tests of masking: no credential of a URL is shown or written."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from gtacli.errors import GtaError
from gtacli.runtime.atomic import to_json
from gtacli.runtime.download import require_url
from gtacli.runtime.escapes import escape_controls
from gtacli.runtime.secrets import mask_secrets

SECRETS = [
    "https://ada:S3CRET@host.org/a.tar",
    "https://S3CRET@host.org/a.tar?x=1",
    "https://host.org/{0..3}.tar?token=S3CRET",
    "https://host.org/a.tar?X-Amz-Date=2026&X-Amz-Signature=S3CRET&X-Amz-Expires=9",
    "https://host.org/a.tar?X-Amz-Credential=S3CRET%2F20260101&v=1",
    "https://host.org/a.tar?X-Amz-Security-Token=S3CRET",
    "https://host.org/a.tar?sv=1&sig=S3CRET%3D&se=2",
    "https://host.org/a.tar?api_key=S3CRET#x",
    "https://host.org/a.tar?KEY=S3CRET",
    "https://host.org/a.tar?access_token=S3CRET",
    "https://host.org/a.tar?GoogleAccessId=S3CRET&Signature=S3CRET",
    "https://host.org/a.tar?AWSAccessKeyId=S3CRET",
    "https://host.org/a.tar?password=S3CRET",
]


@pytest.mark.parametrize("url", SECRETS)
def test_credentials_are_masked_everywhere(url: str) -> None:
    for text in (url, f"--data=wds/{url}", f"cannot open '{url}' ({url})"):
        for shown in (mask_secrets(text), escape_controls(text), to_json({"a": [text], text: 1})):
            assert "S3CRET" not in shown
            assert "***" in shown
            assert "host.org" in shown
    assert mask_secrets(mask_secrets(url)) == mask_secrets(url)


@pytest.mark.parametrize(
    "text",
    [
        "https://host.org/a.tar?size=3&v=2026#top",
        "https://host.org/@user/a.tar",
        "photos/key=value/a.png",
        "a@b.org",
        "hf_short",
        "x?token=1",
        "hf-hub:timm/vit@main",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert mask_secrets(text) == text


def test_tokens_of_the_hub_are_masked() -> None:
    assert mask_secrets("HF_TOKEN=hf_abcdefghijklmnopqrst") == "HF_TOKEN=***"


def test_errors_of_downloads_show_no_credentials() -> None:
    for url in (
        "ftp://ada:S3CRET@host.org/a",
        "http://host.org/a?token=S3CRET",
        "https://a:S3CRET@",
    ):
        with pytest.raises(GtaError) as caught:
            require_url(url)
        assert "S3CRET" not in str(caught.value)


def test_a_run_records_no_credentials_and_resumes_with_them_named_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gtacli.config.finetune import FinetuneConfig
    from gtacli.runtime.run_folder import RunFolder
    from gtacli.training.resuming import resumed_config

    data = "wds/https://host.org/{0..3}.tar?token=S3CRET"
    config = FinetuneConfig(data=data)
    record = {
        "command": "finetune",
        "config": config.model_dump(mode="json"),
        "data": {"fingerprint": "0"},
        "model": {"fingerprint": "0"},
        "argv": ["gta", f"--data={data}"],
    }
    folder = RunFolder(tmp_path / "run")
    folder.write_json("run.json", record)
    text = (tmp_path / "run" / "run.json").read_text()
    assert "S3CRET" not in text
    assert json.loads(text)["config"]["data"] == "wds/https://host.org/{0..3}.tar?token=***"
    with pytest.raises(GtaError, match=r"`data` stands in .*run without its credentials; name it"):
        resumed_config(FinetuneConfig(resume=folder.path), "finetune")
    again = resumed_config(FinetuneConfig(resume=folder.path, data=data), "finetune")
    assert again.data == data
    other = FinetuneConfig(resume=folder.path, data="wds/https://host.org/other.tar")
    with pytest.raises(GtaError, match="`data` was"):
        resumed_config(other, "finetune")


def test_log_lines_show_no_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    from gtacli.cli import console

    record = logging.LogRecord("gtacli", logging.WARNING, "x", 1, "at %s", (SECRETS[0],), None)
    assert "S3CRET" not in console._Formatter("%(message)s").format(record)
