"""Git repositories to look at, friendly and hostile."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

_IDENTITY = ("-c", "user.name=A", "-c", "user.email=a@b.test", "-c", "commit.gpgSign=false")


@dataclass(frozen=True)
class TestRepository:
    """A repository with one commit of the file `a`. `evil`: a program that leaves `mark` behind when it runs."""

    __test__ = False
    path: Path
    home: Path

    @property
    def mark(self) -> Path:
        return self.home / "mark"

    @property
    def evil(self) -> Path:
        return self.home / "evil"

    def git(self, *words: str, cwd: Path | None = None, check: bool = True) -> str:
        """The plain git, as a careless program would call it."""
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.home), "GIT_CONFIG_NOSYSTEM": "1", "LANG": "C.UTF-8"}
        done = subprocess.run(
            ["git", *_IDENTITY, *words], cwd=cwd or self.path, env=environ, capture_output=True, text=True, check=check
        )
        return done.stdout

    def configure(self, **values: str) -> None:
        """Dots as two underscores: diff__external."""
        for key, value in values.items():
            self.git("config", key.replace("__", "."), value)

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def commit(self, message: str = "more") -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def give_away(self) -> None:
        """To nobody, as root can."""
        subprocess.run(["chown", "-R", "65534", str(self.path)], check=True)

    def snapshot(self) -> dict[str, tuple[int, int]]:
        """Every file of it, with size and time: reading must change none."""
        files = (path for path in self.path.rglob("*") if not path.is_dir())
        return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in files}


def make_repository(base: Path, *init: str) -> TestRepository:
    repository = TestRepository(base / "repository", base / "home")
    repository.path.mkdir()
    repository.home.mkdir()
    repository.evil.write_text(f"#!/bin/sh\ntouch {repository.mark}\n")
    repository.evil.chmod(0o755)
    repository.git("init", "-q", "-b", "main", *init)
    repository.write("a", "one\n")
    repository.commit("first")
    return repository


def sign_commit(repository: TestRepository) -> None:
    """The last commit again, with a signature that somebody would have to check."""
    commit = repository.git("cat-file", "commit", "HEAD")
    head, _, body = commit.partition("\n\n")
    signed = f"{head}\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\n{body}"
    (repository.home / "commit").write_text(signed)
    name = repository.git("hash-object", "-t", "commit", "-w", str(repository.home / "commit")).strip()
    repository.git("update-ref", "refs/heads/main", name)
