"""pip, uv and twine as a person runs them, each in an environment that knows nothing of this machine's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TIMEOUT = 90.0


def clean_env(home: Path, **extra: str) -> dict[str, str]:
    """Return the environment of a client: PATH, an own HOME with caches below it, and no configuration.

    No variable of the caller's reaches it, so no index, proxy or credential of this machine does either.
    """
    home.mkdir(parents=True, exist_ok=True)
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
        "NO_COLOR": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_CACHE_DIR": str(home / "pip-cache"),
        "PIP_NO_INPUT": "1",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        "UV_CACHE_DIR": str(home / "uv-cache"),
        "UV_KEYRING_PROVIDER": "disabled",
        "UV_NO_CONFIG": "1",
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON": sys.executable,
        "UV_PYTHON_DOWNLOADS": "never",
        **extra,
    }


def find_uv() -> str:
    """Return the path of uv, this interpreter's own if there is one; skip the test where there is none."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        pytest.skip("uv is not installed")
    return found


def write_netrc(home: Path, host: str, login: str, password: str) -> Path:
    """Add credentials to `~/.netrc`. `host` has no port: neither pip nor uv looks at one there."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / ".netrc"
    with path.open("a", encoding="utf-8") as netrc:
        netrc.write(f"machine {host}\nlogin {login}\npassword {password}\n")
    path.chmod(0o600)
    return path


class Client:
    """Runs the clients with one HOME. Every method returns the finished process; none checks its status."""

    def __init__(self, home: Path, **extra: str) -> None:
        """Take the HOME (made if need be) and further environment variables."""
        self.home = home
        self.env = clean_env(home, **extra)

    def run(self, *command: str | Path, timeout: float = TIMEOUT) -> subprocess.CompletedProcess[str]:
        """Run any command in this environment, with standard input closed; output is captured as text."""
        return subprocess.run(
            [str(part) for part in command],
            env=self.env,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def pip_install(self, target: Path, index_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Install requirements (and further options) into a directory with pip.

        It would read the metadata of everything that is installed beside it, to warn of conflicts.
        """
        options = ["--no-warn-conflicts", "--target", str(target), "--index-url", index_url]
        return self._pip("install", *options, *arguments)

    def pip_download(self, target: Path, index_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Download requirements into a directory with pip."""
        return self._pip("download", "--dest", str(target), "--index-url", index_url, *arguments)

    def _pip(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # A warning of pip's own vendored code about this Python is no matter of the test.
        return self.run(sys.executable, "-W", "ignore", "-m", "pip", *arguments)

    def uv_pip_install(
        self, target: Path, index_url: str, *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        """Install requirements (and further options) into a directory with uv."""
        return self.run(find_uv(), "pip", "install", "--target", target, "--index-url", index_url, *arguments)

    def twine_upload(
        self, url: str, user: str, password: str, *files: str | Path
    ) -> subprocess.CompletedProcess[str]:
        """Upload with twine."""
        login = ["--username", user, "--password", password]
        options = ["--non-interactive", "--disable-progress-bar", "--repository-url", url, *login]
        return self.run(sys.executable, "-m", "twine", "upload", *options, *files, timeout=300)

    def uv_publish(
        self, url: str, user: str, password: str, *files: str | Path, check_url: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Upload with uv; `check_url` is an index that it looks at for what is there already."""
        options = ["--trusted-publishing", "never", "--publish-url", url]
        options += ["--username", user, "--password", password]
        if check_url is not None:
            options += ["--check-url", check_url]
        return self.run(find_uv(), "publish", *options, *files, timeout=300)

    def forget(self) -> None:
        """Empty the clients' caches."""
        for name in ("pip-cache", "uv-cache"):
            shutil.rmtree(self.home / name, ignore_errors=True)


def installed(target: Path) -> set[str]:
    """Return what lies in a directory that was installed into, as `name-version` in the filename spelling."""
    return {path.name.removesuffix(".dist-info") for path in target.glob("*.dist-info")}
