"""A hook of mkdocs that builds the site from the same files that a code host shows.

README.md becomes the first page; CONTRIBUTING.md, SECURITY.md and CHANGELOG.md join the docs. Links
that leave docs/ point to the repository.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import normpath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}
_LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie in the repository's root."""
    for name, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=_relink(text, "", config.repo_url)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point the links of a page in docs/ that leave it to the repository."""
    return markdown if page.file.src_uri in PAGES else _relink(markdown, "docs", config.repo_url)


def _relink(text: str, folder: str, repository: str) -> str:
    def target(match: re.Match[str]) -> str:
        path = normpath(f"{folder}/{match[1]}" if folder else match[1])
        page = next((name for name, source in PAGES.items() if source == path), None)
        if page:
            return page
        if path.startswith("docs/"):
            return path.removeprefix("docs/")
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"a link leads to {path}, which does not exist")
        return f"{repository}/blob/main/{path}"

    return _LINK.sub(target, text)
