"""Release checks: is everything as it was frozen? Offline, from the files alone; the first difference is named."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from appliance.verification.archive import NoArchive, read_archive
from appliance.verification.deployment import SCHEMA as DEPLOYMENT
from appliance.verification.deployment import check_chain, records_in
from appliance.verification.manifest import SCHEMA, Release, stem_of, tree_files, tree_row
from appliance.verification.manifest_forms import forms
from appliance.verification.sealed_json import Damaged, digest_of_file, read_sealed


def check_release(file: Path, release: Release | None) -> Iterator[str]:
    """Check a manifest or a deployment record and all that belongs to it; a line for each thing that is as it was.

    `release` None: the executable or tree itself is not looked at. Raises Damaged, OSError.
    """
    document = read_sealed(file)
    yield f"{file.name}: as it was written"
    if document.get("schema") not in (SCHEMA, DEPLOYMENT):
        raise Damaged(f"{file.name}: its schema is {str(document.get('schema'))[:80]!r}, which is unknown here")
    try:
        is_record = document["schema"] == DEPLOYMENT
        yield from _check_manifest(_manifest_of(document, file.parent) if is_record else file, release)
        yield from _check_records(file.parent)
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{file.name}: a field is missing or of another kind: {error}") from None


def _manifest_of(record: Mapping[str, Any], folder: Path) -> Path:
    named = record["manifest"]
    file: Path = folder / Path(str(named["name"])).name
    if not file.is_file():
        raise Damaged(f"{named['name']}: the manifest that the record names is not beside it")
    if digest_of_file(file) != named["sha256"]:
        raise Damaged(f"{file.name}: it is not the manifest that the record names")
    return file


def _check_manifest(file: Path, release: Release | None) -> Iterator[str]:
    document = read_sealed(file)
    manifest = {name: value for name, value in document.items() if name != "sha256"}
    stem = stem_of(manifest)
    if file.name != f"{stem}.json":
        raise Damaged(f"{file.name}: what it describes is called {stem}.json")
    for name, data in forms(manifest, stem, file.read_bytes()).items():
        beside = file.parent / name
        if not beside.is_file():
            raise Damaged(f"{name}: it is missing beside {file.name}")
        if beside.read_bytes() != data:
            raise Damaged(f"{name}: it does not say what {file.name} says")
        yield f"{name}: follows from the manifest"
    if release is None:
        yield "executable: not looked at"
    elif manifest["executable"] is not None:
        yield _check_executable(manifest, release)
    else:
        yield _check_tree(manifest, release.folder)


def _check_executable(manifest: Mapping[str, Any], release: Release) -> str:
    stated, file = manifest["executable"], release.executable
    if file is None:
        raise Damaged(f"{release.folder} has no executable: name its folder with --app-dir")
    if file.stat().st_size != stated["size"]:
        raise Damaged(f"{file}: {file.stat().st_size} bytes, not {stated['size']}{_which_entry(manifest, file)}")
    if digest_of_file(file) != stated["sha256"]:
        raise Damaged(f"{file}: SHA-256 {digest_of_file(file)}, not {stated['sha256']}{_which_entry(manifest, file)}")
    return f"{file}: {stated['size']} bytes, SHA-256 {stated['sha256']}"


def _which_entry(manifest: Mapping[str, Any], file: Path) -> str:
    """The first entry of the archive that differs, for a person who wonders what was changed."""
    try:
        found = {entry.name: entry.sha256 for entry in read_archive(file, modules=False).entries}
    except NoArchive as error:
        return f"; {error}"
    for entry in manifest["entries"]:
        if not entry["name"].startswith("PYZ.pyz/") and found.get(entry["name"]) != entry["sha256"]:
            return f"; the first entry that differs: {entry['name']}"
    return ""


def _check_tree(manifest: Mapping[str, Any], folder: Path) -> str:
    stated = {row["name"]: row for row in manifest["files"]}
    found = {row["name"]: row for row in (tree_row(folder, file) for file in tree_files(folder))}
    for name in sorted(stated.keys() | found.keys()):
        if name not in found:
            raise Damaged(f"{folder / name}: missing")
        if name not in stated:
            raise Damaged(f"{folder / name}: it was not there when this was frozen")
        if stated[name] != found[name]:
            raise Damaged(f"{folder / name}: SHA-256 {found[name]['sha256']}, not {stated[name]['sha256']}")
    return f"{folder}: {len(stated)} files"


def _check_records(folder: Path) -> Iterator[str]:
    records = check_chain(folder)
    for record, file in zip(records, records_in(folder), strict=True):
        _manifest_of(record, folder)
        yield f"{file.name}: follows the one before"


def load_for_diff(file: Path) -> dict[str, Any]:
    """A manifest or record without its seal. Raises Damaged, OSError."""
    return {name: value for name, value in read_sealed(file).items() if name != "sha256"}
