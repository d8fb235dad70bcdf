"""The version of the plug-in API, and the versions that a distribution was made for.

The API has the version of gtacli: before 1.0 it may change with the second number, then with the
first. A plug-in says what it was made for by the bounds of its dependency (`gtacli>=0.1,<0.2`).
"""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

PACKAGE = "gtacli"


def api_version() -> str:
    """Return the version of the plug-in API: "0.1", and from 1.0 on the first number, "1"."""
    version = Version(metadata.version(PACKAGE))
    return f"{version.major}.{version.minor}" if version.major == 0 else str(version.major)


def api_bounds() -> str:
    """Return the dependency of a plug-in that is made for this version: "gtacli>=0.1,<0.2"."""
    now = api_version()
    head, _, minor = now.partition(".")
    after = f"{head}.{int(minor) + 1}" if minor else str(int(head) + 1)
    return f"{PACKAGE}>={now},<{after}"


def made_for_another(distribution: str) -> str | None:
    """Return the bounds on gtacli that a distribution has and this version does not meet.

    None: it was made for this version, or does not say for which.
    """
    try:
        wanted = metadata.requires(distribution) or ()
        version = Version(metadata.version(PACKAGE))
    except (metadata.PackageNotFoundError, ValueError, InvalidVersion):
        return None
    for text in wanted:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if canonicalize_name(requirement.name) != PACKAGE or requirement.marker:
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            return f"{PACKAGE} {requirement.specifier}"
    return None
