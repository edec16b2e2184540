"""Forms: one manifest as other programs read it. CycloneDX 1.6, an in-toto statement with SLSA v1 provenance, sums."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from appliance.verification.sealed_json import digest, spell

CYCLONEDX = "1.6"
STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:appliance:build:pyinstaller-onefile:v1"
BUILDER = "urn:appliance:builder:tools-dev.py-binary"
_NAMESPACE = uuid.UUID("6f1d52f4-6c3e-5c35-9d0c-9a0d0f4b7a11")  # chosen once: the same release, the same serial number


def forms(manifest: Mapping[str, Any], stem: str, sealed: bytes) -> dict[str, bytes]:
    """Every further file of a release by its name, each a function of the manifest alone. `sealed`: its own bytes."""
    made = {f"{stem}.cdx.json": spell(cyclonedx(manifest)), f"{stem}.intoto.json": spell(statement(manifest))}
    rows = {f"{stem}.json": digest(sealed), **{name: digest(data) for name, data in made.items()}}
    if manifest["executable"] is not None:
        rows[manifest["executable"]["name"]] = manifest["executable"]["sha256"]
    sums = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(rows.items()))
    return {**made, f"{stem}.sha256": sums.encode("ascii")}


def cyclonedx(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """CycloneDX 1.6: the product, its distributions and its shared libraries."""
    reference = f"appliance@{manifest['version']}"
    product: dict[str, Any] = {
        "type": "application",
        "bom-ref": reference,
        "name": "appliance",
        "version": manifest["version"],
    }
    if manifest["executable"] is not None:
        product["hashes"] = _hashes([manifest["executable"]["sha256"]])
    properties = {
        "appliance:commit": manifest["source"]["commit"],
        "appliance:glibc_floor": manifest["glibc_floor"],
        "appliance:python": manifest["python"],
    }
    product["properties"] = [{"name": name, "value": value} for name, value in properties.items() if value is not None]
    components = [*map(_distribution, manifest["distributions"]), *map(_library, manifest["libraries"])]
    runtime = [row["bom-ref"] for row in components if row["scope"] == "required"]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": CYCLONEDX,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, digest(spell(manifest)))}",
        "version": 1,
        "metadata": {"component": product},
        "components": components,
        "dependencies": [{"ref": reference, "dependsOn": runtime}],
    }


def _distribution(row: Mapping[str, Any]) -> dict[str, Any]:
    purl = f"pkg:pypi/{row['name']}@{row['version']}"
    shown: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": row["name"],
        "version": row["version"],
        "purl": purl,
        "scope": "required" if row["use"] == "runtime" else "excluded",
    }
    if row["licence"]:
        shown["licenses"] = [{"license": {"name": row["licence"]}}]
    # Where several archives may be installed from, none of them is what is here.
    return {**shown, "hashes": _hashes(row["sha256"])} if len(row["sha256"]) == 1 else shown


def _library(row: Mapping[str, Any]) -> dict[str, Any]:
    _, _, version = (row["package"] or "").partition(" ")
    shown = {
        "type": "library",
        "bom-ref": f"file:{row['name']}:{row['sha256'][:12]}",
        "name": row["name"],
        "scope": "required",
        "hashes": _hashes([row["sha256"]]),
    }
    return {**shown, "version": version} if version else shown


def _hashes(sha256: Sequence[str]) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": content} for content in sha256]


def statement(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """An in-toto statement v1 with SLSA provenance v1: what was built, from which commit, out of which archives."""
    source = manifest["source"]
    materials: list[dict[str, Any]] = []
    if source["commit"] is not None:
        materials.append({"name": "source", "digest": {"gitCommit": source["commit"], "gitTree": source["tree"]}})
    for row in manifest["distributions"]:
        if len(row["sha256"]) == 1:
            uri = f"pkg:pypi/{row['name']}@{row['version']}"
            materials.append({"uri": uri, "digest": {"sha256": row["sha256"][0]}})
    return {
        "_type": STATEMENT,
        "subject": _subject(manifest),
        "predicateType": PROVENANCE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"version": manifest["version"]},
                "internalParameters": {"source_changed": source["changed"], "python": manifest["python"]},
                "resolvedDependencies": materials,
            },
            "runDetails": {"builder": {"id": BUILDER}},
        },
    }


def _subject(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [manifest["executable"]] if manifest["executable"] is not None else manifest["files"]
    return [{"name": row["name"], "digest": {"sha256": row["sha256"]}} for row in rows]
