"""Disk space: enough for journals now, and for as many pictures as the store may keep."""

from collections.abc import Iterator

from appliance.config.loading import Configuration
from appliance.doctor.patient import Patient, Result, nearest

ID = "disk_space"
MIN_BYTES = 100_000_000  # one segment of the tools' journal; below it, runs and pictures are soon refused (507)
MIN_FILES = 1_000


def check_disk(patient: Patient, configuration: Configuration) -> Iterator[Result]:
    settings = configuration.settings
    for name, path in (("", configuration.state_dir), (".images", settings.ui_image_dir)):
        if name and path.is_relative_to(configuration.state_dir):
            continue
        free = patient.free(nearest(path))
        wanted = settings.ui_image_store_max_bytes if name or _holds_images(configuration) else MIN_BYTES
        seen = f"{_size(free.size_bytes)} free at {path}"
        if free.size_bytes < MIN_BYTES:
            yield Result(ID + name, "failure", seen, f"free at least {_size(MIN_BYTES)} there")
        elif free.files is not None and free.files < MIN_FILES:
            yield Result(ID + name, "failure", f"{seen}, but only {free.files} files more", "remove files there")
        elif free.size_bytes < wanted:
            remedy = f"free {_size(wanted)}, or lower UI_IMAGE_STORE_MAX_BYTES"
            yield Result(ID + name, "warning", f"{seen}: pictures may take {_size(wanted)}", remedy)
        else:
            yield Result(ID + name, "ok", seen)


def _holds_images(configuration: Configuration) -> bool:
    return configuration.settings.ui_image_dir.is_relative_to(configuration.state_dir)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"
