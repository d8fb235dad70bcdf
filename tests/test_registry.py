"""Registries with real distributions: gtacli, a plug-in, and broken ones."""

from __future__ import annotations

import email
import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

import gtacli
from gtacli.data import load_dataset
from gtacli.errors import GtaError, UsageError
from gtacli.models.specs import resolve
from gtacli.registry import DATASETS, DISCOVERY, GROUPS, MODELS, REGULARIZERS, Registry

GROUP = "gta.regularizers"


class Base:
    pass


class Part(Base):
    pass


class Stranger:
    pass


def install(
    site: Path, name: str, entries: dict[str, str], requires: str = "", **modules: str
) -> Path:
    """Write a distribution as an installer does: modules and a dist-info folder."""
    info = site / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n"
    metadata += f"Requires-Dist: {requires}\n" if requires else ""
    (info / "METADATA").write_text(metadata)
    lines = [f"{key} = {value}" for key, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))
    for module, text in modules.items():
        (site / f"{module}.py").write_text(text)
    return site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_built_in_parts_come_through_entry_points() -> None:
    assert {"gta", "l2-sp", "bss"} <= set(REGULARIZERS.names())
    assert {"folder", "cub", "csv", "demo"} <= set(DATASETS.names())
    assert "demo" in MODELS.names()
    assert {"tokencut", "dino", "gradcam"} <= set(DISCOVERY.names())
    origin = REGULARIZERS.origin("gta")
    assert (origin.distribution, origin.builtin) == ("gtacli", True)
    assert origin.value == "gtacli.regularizers.gta:GTA"


def test_built_in_parts_load() -> None:
    built_in = [(o.name, e) for r in GROUPS for o, e in r.check() if o.builtin]
    assert built_in
    assert [pair for pair in built_in if pair[1]] == []


def test_names_are_listed_without_importing_torch() -> None:
    code = (
        "import sys; from gtacli.registry import GROUPS; [r.names() for r in GROUPS];"
        "print([m for m in ('torch', 'pydantic', 'gtacli.regularizers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("typo", "meant"), [("gtaa", "gta"), ("l2sp", "l2-sp"), ("bs", "bss"), ("nonne", "none")]
)
def test_an_unknown_name_suggests_the_nearest_one(typo: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"unknown regularizer '{typo}'; did you mean '{meant}'"):
        REGULARIZERS.load(typo)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        UsageError, match=r"unknown regularizer 'zzzz'; known: .*bss, .*gta, l2-sp, none"
    ):
        REGULARIZERS.origin("zzzz")


@pytest.mark.usefixtures("delta")
def test_an_installed_plugin_is_found_and_loads() -> None:
    origin = REGULARIZERS.origin("delta")
    assert (origin.distribution, origin.version, origin.builtin) == ("gta-delta", "0.1.0", False)
    assert REGULARIZERS.load("delta").__name__ == "Delta"
    assert (origin, None) in REGULARIZERS.check()


BROKEN = {
    "raises": ("raise RuntimeError('no\\nluck')", "RuntimeError: no luck"),
    "exits": ("raise SystemExit(1)", "SystemExit"),
    "quits": ("class Quit(BaseException): pass\nraise Quit('bye')", "Quit: bye"),
    "interrupts_itself": ("raise GeneratorExit", "GeneratorExit"),
    "no_syntax": ("class", "SyntaxError"),
    "needs_more": ("import not_there_at_all", "ModuleNotFoundError"),
    "no_attribute": ("x = 1", "AttributeError"),
    "no_class": ("Part = 3", r"\(a regularizer derives from gtacli\.regularizers\.Regularizer\)"),
    "wrong_base": ("class Part: pass", "is not a Regularizer"),
}


@pytest.mark.parametrize("module", BROKEN)
def test_a_broken_plugin_does_not_affect_the_others(site: Path, module: str) -> None:
    text, what = BROKEN[module]
    install(site, "bad-dist", {"bad": f"{module}:Part"}, **{module: text})

    assert {"bad", "gta", "bss"} <= set(REGULARIZERS.names())
    assert REGULARIZERS.load("bss").__name__ == "BSS"
    with pytest.raises(GtaError, match=what) as caught:
        REGULARIZERS.load("bad")
    message = str(caught.value)
    assert "bad-dist 1.2" in message
    assert "regularizer 'bad'" in message
    assert "\n" not in message
    errors = {o.name: e for o, e in REGULARIZERS.check()}
    assert errors["gta"] is None
    assert errors["bad"] == message


@pytest.mark.parametrize(
    ("requires", "said"),
    [
        ("gtacli>=0.1,<0.1.1", None),
        ("gtacli", None),
        ("gtacli[hf]>=0.1", None),
        ("other<1", None),
        ("no requirement at all", None),
        ("gtacli>=9", "gtacli >=9"),
        ("gtacli>=0.0.1,<0.1", "gtacli <0.1,>=0.0.1"),
        ("GTAcli[hf]==0.0.*", "gtacli ==0.0.*"),
    ],
)
def test_a_plugin_for_another_version(site: Path, requires: str, said: str | None) -> None:
    text = "from gtacli.regularizers.bss import BSS as Part\nprint('imported')"
    install(site, "old-dist", {"old": "for_another:Part"}, requires, for_another=text)
    sys.modules.pop("for_another", None)
    importlib.invalidate_caches()
    if said is None:
        assert REGULARIZERS.load("old").__name__ == "BSS"
        return
    with pytest.raises(GtaError) as caught:
        REGULARIZERS.load("old")
    assert "for_another" not in sys.modules, "it is not even imported"
    message = str(caught.value)
    assert f"of old-dist 1.2 was made for {said}, and this is gtacli 0.1" in message
    assert "install another version of old-dist" in message
    assert REGULARIZERS.load("bss").__name__ == "BSS"


def test_the_version_of_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    from gtacli.runtime import versions

    assert gtacli.api_version == versions.api_version()
    for version, api, bounds in (
        ("0.1.0", "0.1", "gtacli>=0.1,<0.2"),
        ("0.12.3.dev4", "0.12", "gtacli>=0.12,<0.13"),
        ("2.3.4", "2", "gtacli>=2,<3"),
    ):
        monkeypatch.setattr(versions.metadata, "version", lambda name, version=version: version)
        assert (versions.api_version(), versions.api_bounds()) == (api, bounds)


def test_what_a_plugin_prints_at_import_is_no_result(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "print('welcome')\nfrom gtacli.regularizers.bss import BSS as Part"
    install(site, "a-talker", {"talks": "talker:Part"}, talker=text)
    assert REGULARIZERS.load("talks").__name__ == "BSS"
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "welcome\n")


def test_origins_are_those_of_the_names() -> None:
    for registry in GROUPS:
        assert registry.origins() == [registry.origin(name) for name in registry.names()]


def test_damaged_metadata_does_not_stop_the_listing(site: Path) -> None:
    info = site / "nameless-0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nnameless = nowhere:Part\n")
    assert "gta" in REGULARIZERS.names()


@pytest.mark.parametrize(
    ("switch", "found"),
    [
        (None, {"one", "two"}),
        ("", set()),
        ("first-dist", {"one"}),
        ("First_Dist, second.dist", {"one", "two"}),
        ("nobody", set()),
    ],
)
def test_gta_plugins_selects_distributions(
    site: Path, monkeypatch: pytest.MonkeyPatch, switch: str | None, found: set[str]
) -> None:
    install(site, "first-dist", {"one": "m:P"})
    install(site, "second-dist", {"two": "m:P"})
    if switch is not None:
        monkeypatch.setenv("GTA_PLUGINS", switch)
    names = set(REGULARIZERS.names())
    assert names & {"one", "two"} == found
    assert {"gta", "bss"} <= names


@pytest.mark.parametrize(
    ("switch", "text"), [("", "switches all plug-ins off"), ("other", "leaves out first-dist")]
)
def test_the_switch_is_named_where_a_part_is_asked_for(
    site: Path, monkeypatch: pytest.MonkeyPatch, switch: str, text: str
) -> None:
    install(site, "first-dist", {"mine": "a:Part"})
    monkeypatch.setenv("GTA_PLUGINS", switch)
    with pytest.raises(UsageError) as error:
        REGULARIZERS.load("mine")
    assert str(error.value) == (
        f"regularizer 'mine' is of first-dist, and GTA_PLUGINS={switch} {text}; add first-dist to "
        "GTA_PLUGINS, or unset it"
    )
    assert REGULARIZERS.switched_off("bss") is None
    assert REGULARIZERS.switched_off("unknown") is None


@pytest.mark.parametrize(
    ("group", "read"),
    [
        ("gta.datasets", lambda: load_dataset("mine/one:.")),
        ("gta.models", lambda: resolve("mine:x/y")),
    ],
)
def test_the_switch_is_named_for_families(
    site: Path, monkeypatch: pytest.MonkeyPatch, group: str, read: Callable[[], object]
) -> None:
    info = install(site, "first-dist", {"mine": "a:Part"}) / "first_dist-1.2.dist-info"
    points = info / "entry_points.txt"
    points.write_text(points.read_text().replace(GROUP, group))
    monkeypatch.setenv("GTA_PLUGINS", "")
    with pytest.raises(GtaError, match="'mine' is of first-dist, and GTA_PLUGINS= switches all"):
        read()


def test_metadata_is_read_once_and_again_after_an_installation(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study's check looks parts up hundreds of times; a notebook installs while it runs."""
    reads = []
    real = metadata.entry_points
    monkeypatch.setattr(metadata, "entry_points", lambda **k: reads.append(k) or real(**k))
    parsed = []
    parse = email.message_from_string
    monkeypatch.setattr(email, "message_from_string", lambda *a: parsed.append(a) or parse(*a))
    for _ in range(3):
        assert "fresh" not in REGULARIZERS.names()
        assert "folder" in DATASETS.names()
    assert len(reads) == 1
    ours = {origin.distribution for registry in GROUPS for origin in registry.origins()}
    assert len(parsed) == 2 * len(ours)  # the name and the version of each
    install(site, "a-fresh", {"fresh": "fresh:Part"})
    assert REGULARIZERS.origin("fresh").distribution == "a-fresh"
    shutil.rmtree(site / "a_fresh-1.2.dist-info")
    assert "fresh" not in REGULARIZERS.names()
    assert len(reads) == 3


def test_a_built_in_name_cannot_be_taken(site: Path) -> None:
    install(site, "a-thief", {"gta": "thief:Part"}, thief="class Part: pass")
    assert REGULARIZERS.origin("gta").builtin
    [(origin, error)] = [c for c in REGULARIZERS.check() if c[0].distribution == "a-thief"]
    assert origin.name == "gta"
    assert error is not None
    assert "is hidden by that of gtacli" in error


def test_of_two_plugins_the_first_by_name_wins(site: Path) -> None:
    install(site, "zeta", {"same": "z:Part"})
    install(site, "alpha", {"same": "a:Part"})
    assert REGULARIZERS.origin("same").distribution == "alpha"
    hidden = [(o.distribution, e) for o, e in REGULARIZERS.check() if o.distribution == "zeta"]
    assert hidden[0][1] is not None
    assert "hidden by that of alpha" in hidden[0][1]


def test_parts_can_be_registered_in_place() -> None:
    registry: Registry[Base] = Registry("gta.nothing", Base, "part")
    with registry.registered("mine", Part):
        assert registry.names() == ["mine"]
        assert registry.load("mine") is Part
    assert registry.names() == []
    registry.register("text", "collections:OrderedDict")
    with pytest.raises(GtaError, match="is not a Base"):
        registry.load("text")
    registry.unregister("text")
    registry.register("stranger", Stranger)
    with pytest.raises(GtaError, match="is not a Base"):
        registry.load("stranger")


def test_a_registered_part_comes_before_an_installed_one() -> None:
    class Mine(REGULARIZERS.load("bss")):  # type: ignore[misc]
        pass

    with REGULARIZERS.registered("bss", Mine):
        assert REGULARIZERS.load("bss") is Mine
    assert REGULARIZERS.load("bss") is not Mine


def test_without_a_base_any_object_is_a_part() -> None:
    registry: Registry[object] = Registry("gta.nothing", None, "part")
    registry.register("path", "pathlib:Path")
    assert registry.load("path") is Path


def test_a_missing_base_is_an_error_of_the_part() -> None:
    registry: Registry[object] = Registry("gta.nothing", "gtacli.no_such:Base", "part")
    registry.register("path", "pathlib:Path")
    [(origin, error)] = registry.check()
    assert origin.name == "path"
    assert error is not None
