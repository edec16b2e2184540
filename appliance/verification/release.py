"""freeze_release: write down what a release is and how it stands on a box; check that, offline; compare two."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from appliance.verification.archive import NoArchive
from appliance.verification.deployment import Running, make_record, name_of
from appliance.verification.flags import add_gateway_flags
from appliance.verification.http import Exchange, Gateway, open_exchange
from appliance.verification.manifest import CannotFreeze, Release, find_release, make_manifest, stem_of
from appliance.verification.manifest_forms import forms
from appliance.verification.release_checks import check_release, load_for_diff
from appliance.verification.sealed_json import Damaged, differences, digest, seal
from appliance.verification.tokens import find_token, is_token

EXIT_OK = 0
EXIT_DIFFERENT = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

TIMEOUT_S = 30.0
_Command = Callable[[Sequence[str]], int]


def freeze(argv: Sequence[str], environ: Mapping[str, str] = os.environ, exchange: Exchange | None = None) -> int:
    """Write manifest, its other forms and the next deployment record into --out. 0; 1 it cannot be; 2 usage; 130."""
    return _run(_freeze_parser(), argv, lambda options: _freeze(options, environ, exchange))


def verify(argv: Sequence[str]) -> int:
    """Check a manifest or record and all that belongs to it. 0 all as frozen; 1 the first difference; 2 usage; 130."""
    return _run(_verify_parser(), argv, _verify)


def diff(argv: Sequence[str]) -> int:
    """Compare two manifests, or two records. 0 the same; 1 they differ; 2 usage; 130."""
    return _run(_diff_parser(), argv, _diff)


def _run(parser: argparse.ArgumentParser, argv: Sequence[str], command: Callable[[argparse.Namespace], int]) -> int:
    try:
        options = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed its help or what is wrong
        return EXIT_OK if stop.code == 0 else EXIT_USAGE
    try:
        return command(options)
    except (Damaged, NoArchive) as problem:
        if options.json:
            print(json.dumps({"ok": False, "difference": str(problem)}))
        print(f"DIFFERENT  {problem}", file=sys.stderr)
        return EXIT_DIFFERENT
    except (CannotFreeze, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _freeze(options: argparse.Namespace, environ: Mapping[str, str], exchange: Exchange | None) -> int:
    release = find_release(options.app_dir)
    running = _running(options, environ, exchange)
    if release.executable is None and not options.json:
        print(f"no executable in {release.folder}: freezing the tree's files instead")
    manifest = make_manifest(release)
    stem, sealed = stem_of(manifest), seal(manifest)
    options.out.mkdir(parents=True, exist_ok=True)
    files = {f"{stem}.json": sealed, **forms(manifest, stem, sealed)}
    for name, data in files.items():
        _write(options.out / name, data, again=True)
    record = make_record(release, f"{stem}.json", digest(sealed), options.out, running)
    recorded = name_of(record["sequence"])
    _write(options.out / recorded, seal(record), again=False)
    written, unknown = [str(options.out / name) for name in (*files, recorded)], _unknown(manifest) + _unknown(record)
    if options.json:
        frozen = "tree" if release.executable is None else "executable"
        print(json.dumps({"ok": True, "frozen": frozen, "files": written, "unknown": unknown}))
        return EXIT_OK
    for line in [*written, *(f"unknown: {place}" for place in unknown)]:
        print(line)
    return EXIT_OK


def _running(options: argparse.Namespace, environ: Mapping[str, str], exchange: Exchange | None) -> Running:
    if options.base_url is None:
        return Running(None, None)
    carry = exchange or open_exchange(insecure=options.insecure, timeout_s=TIMEOUT_S)
    observability = Gateway(options.obs_url, "", carry) if options.obs_url else None
    token = find_token(options.token, environ, options.base_url)
    if token is None or not is_token(token):
        return Running(None, observability, "not asked: no token, or one with blanks in it: give --token")
    return Running(Gateway(options.base_url, token, carry), observability)


def _unknown(value: object, place: str = "") -> list[str]:
    """What could not be found out, with its reason."""
    if not isinstance(value, Mapping):
        return []
    if isinstance(value.get("unknown"), str):
        return [f"{place}: {value['unknown']}"]
    return [line for key, item in value.items() for line in _unknown(item, f"{place}.{key}" if place else str(key))]


def _write(file: Path, data: bytes, *, again: bool) -> None:
    """Whole or not at all, on the disk when this returns. Raises FileExistsError for what is there, unless `again`."""
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        if again:
            scratch.replace(file)
        else:
            os.link(scratch, file)  # fails where another one has just written its own
    finally:
        scratch.unlink(missing_ok=True)


def _verify(options: argparse.Namespace) -> int:
    release = None if options.manifest_only else _beside(options.file, options.app_dir)
    lines = []
    for line in check_release(options.file, release):
        lines.append(line)
        if not options.quiet and not options.json:
            print(f"OK  {line}", flush=True)
    if options.json:
        print(json.dumps({"ok": True, "checked": lines}))
    return EXIT_OK


def _beside(file: Path, named: Path | None) -> Release:
    """What is checked: what was named, else the executable beside the manifest, else what freeze would take."""
    beside = file.parent / "appliance"
    return find_release(named or (beside if beside.is_file() else None))


def _diff(options: argparse.Namespace) -> int:
    found = list(differences(load_for_diff(options.before), load_for_diff(options.after)))
    if options.json:
        print(json.dumps({"same": not found, "differences": found}))
    else:
        for line in found:
            print(line)
    return EXIT_DIFFERENT if found else EXIT_OK


def _freeze_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="freeze_release",
        description="Write what a release is made of, and how it stands here, into a folder. Exit: 0, 1 the records "
        "there are damaged, 2 usage, 130 interrupted.",
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="where the manifest and the records go")
    add("--app-dir", type=Path, metavar="DIR", help="the folder of the executable, or a source tree; default: this one")
    add_gateway_flags(parser, base_url_help="the gateway that runs, whose backends are written down")
    add("--json", action="store_true", help="print one JSON object instead of lines")
    return parser


def _verify_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="release verify",
        description="Check a manifest or a deployment record, offline: its seal, its other forms, the chain of records, "
        "and the executable or tree itself. Exit: 0 all as frozen, 1 the first difference, 2 usage.",
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="release-*.json or deployment-*.json")
    add("--app-dir", type=Path, metavar="DIR", help="the executable's folder; default: beside FILE, else this one")
    add("--manifest-only", action="store_true", help="do not look at the executable")
    add("--quiet", action="store_true", help="say differences only")
    add("--json", action="store_true", help="print one JSON object instead of lines")
    return parser


def _diff_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="release diff", description="Say what differs between two manifests or two records. Exit: 0 nothing, 1."
    )
    parser.add_argument("before", type=Path, metavar="A")
    parser.add_argument("after", type=Path, metavar="B")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    return parser


PARSERS: Mapping[str, Callable[[], argparse.ArgumentParser]] = {
    "freeze": _freeze_parser,
    "verify": _verify_parser,
    "diff": _diff_parser,
}
COMMANDS: Mapping[str, _Command] = {"freeze": freeze, "verify": verify, "diff": diff}


def main(argv: Sequence[str]) -> int:
    """`tools/freeze_release.py`: `freeze` is meant where no command is named."""
    command = COMMANDS.get(argv[0]) if argv else None
    return freeze(argv) if command is None else command(argv[1:])
